// Loaded before the conformance suite: each of its requests goes on a connection of its own.
// Without it Node.js sends one request after the other on the same few, and a balancer that
// deals out connections would hardly ever send two requests of a scenario to two replicas.
"use strict";

const http = require("node:http");

const fetch_ = globalThis.fetch;
http.globalAgent = new http.Agent({ keepAlive: false });
globalThis.fetch = (resource, options = {}) => {
  const headers = new Headers(options.headers ?? (resource instanceof Request ? resource.headers : undefined));
  headers.set("connection", "close");
  return fetch_(resource, { ...options, headers });
};
