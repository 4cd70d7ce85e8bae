// The official TypeScript SDK (@modelcontextprotocol/server 2.x) on node:http.
//
// Called by tests/bench/servers.py, as `node server.mjs PORT [linger]`. A fresh McpServer per request is how the SDK's own
// handler works; the loopback guards are the ones its README puts in front. The lingering tool watches the SDK's
// AbortSignal, which is the author's duty there, and marks its end from a `finally`.
import { createSocket } from 'node:dgram';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { localhostHostValidation, localhostOriginValidation, toNodeHandler } from '@modelcontextprotocol/node';
import { createMcpHandler, McpServer } from '@modelcontextprotocol/server';
import { z } from 'zod';

const [port, lingering] = process.argv.slice(2);
const beacon = lingering ? createSocket('udp4') : undefined;
const textSchema = z.object({ text: z.string() });
const lingerSchema = z.object({ port: z.number().int(), seconds: z.number() });

async function linger({ port, seconds }, context) {
  beacon.send('began', port, '127.0.0.1');
  try {
    await sleep(seconds * 1000, undefined, { signal: context.mcpReq.signal });
  } finally {
    beacon.send('ended', port, '127.0.0.1');
  }
  return { content: [{ type: 'text', text: 'done' }] };
}

function build() {
  const server = new McpServer({ name: 'peer', version: '1' });
  const echo = async ({ text }) => ({ content: [{ type: 'text', text }] });
  server.registerTool('echo', { description: 'Return the text unchanged.', inputSchema: textSchema }, echo);
  if (lingering) server.registerTool('linger', { description: 'Wait.', inputSchema: lingerSchema }, linger);
  return server;
}

const handle = toNodeHandler(createMcpHandler(build, { responseMode: 'json' }));
const hostIsFine = localhostHostValidation();
const originIsFine = localhostOriginValidation();
createServer({ keepAliveTimeout: 75_000 }, (request, response) => {
  if (hostIsFine(request, response) && originIsFine(request, response)) void handle(request, response);
}).listen(Number(port), '127.0.0.1');
