// The official TypeScript SDK of the 1.x line (@modelcontextprotocol/sdk): see conversation.mjs.
//
// It knows the older revisions only and offers the newest of them; `order.version` makes it offer another, by changing
// that one member of its initialize request. It is also the only client here with a WebSocket transport of its own.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport, getDefaultEnvironment } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { WebSocketClientTransport } from '@modelcontextprotocol/sdk/client/websocket.js';
import {
  ElicitRequestSchema,
  ResourceUpdatedNotificationSchema,
  SUPPORTED_PROTOCOL_VERSIONS,
} from '@modelcontextprotocol/sdk/types.js';
import { WebSocket } from 'ws';
import { NOTE, once, order, report, rows } from './conversation.mjs';

globalThis.WebSocket ??= WebSocket;

const client = new Client({ name: 'mcpd-e2e', version: '1' }, { capabilities: { elicitation: {} } });
client.setRequestHandler(ElicitRequestSchema, async (request) => {
  if (request.params.message !== 'What is your name?') return { action: 'decline' };
  return { action: 'accept', content: { name: 'Ada' } };
});
const updated = once();
client.setNotificationHandler(ResourceUpdatedNotificationSchema, (note) => updated.deliver(note.params.uri));

function makeTransport() {
  if (order.command) {
    const [command, ...args] = order.command;
    return new StdioClientTransport({ command, args, env: { ...getDefaultEnvironment(), ...order.environment } });
  }
  const url = new URL(order.url);
  return url.protocol === 'ws:' ? new WebSocketClientTransport(url) : new StreamableHTTPClientTransport(url);
}

let negotiated;
const transport = makeTransport();
const send = transport.send.bind(transport);
transport.send = (message, options) => {
  if (message.method !== 'initialize') return send(message, options);
  return send({ ...message, params: { ...message.params, protocolVersion: order.version } }, options);
};
const tell = transport.setProtocolVersion?.bind(transport);
transport.setProtocolVersion = (version) => {
  negotiated = version;
  tell?.(version);
};
await client.connect(transport);

async function subscribe(touch) {
  await client.subscribeResource({ uri: NOTE });
  await touch();
  const seen = { updated: await updated.value };
  await client.unsubscribeResource({ uri: NOTE });
  return seen;
}

const stateless = '2026-07-28';
await report(
  client,
  rows(
    client,
    (params, options) => client.callTool(params, undefined, options),
    async () => ({ version: negotiated, server: client.getServerVersion()?.name }),
    subscribe,
    {
      stateless: async () => ({ lacks: SUPPORTED_PROTOCOL_VERSIONS.includes(stateless) ? null : stateless }),
      other_subscription: async () => ({ lacks: 'listen' in client ? null : 'listen' }),
    },
  ),
);
