// The official TypeScript client of the 2.x line (@modelcontextprotocol/client): see conversation.mjs.
//
// Its era is `versionNegotiation.mode`: 'auto' probes server/discover and speaks 2026-07-28 with a server that knows
// it; 'legacy' (its default) makes the initialize handshake.

import * as sdk from '@modelcontextprotocol/client';
import { StdioClientTransport, getDefaultEnvironment } from '@modelcontextprotocol/client/stdio';
import { NOTE, once, order, refusal, report, rows } from './conversation.mjs';

const stateless = order.era === 'stateless';
const client = new sdk.Client(
  { name: 'mcpd-e2e', version: '1' },
  { capabilities: { elicitation: {} }, versionNegotiation: { mode: stateless ? 'auto' : 'legacy' } },
);
client.setRequestHandler('elicitation/create', async (request) => {
  if (request.params.message !== 'What is your name?') return { action: 'decline' };
  return { action: 'accept', content: { name: 'Ada' } };
});
const updated = once();
client.setNotificationHandler('notifications/resources/updated', (note) => updated.deliver(note.params.uri));

async function listen(touch) {
  const subscription = await client.listen({ resourceSubscriptions: [NOTE], toolsListChanged: true });
  await touch();
  const seen = { honoured: subscription.honoredFilter, updated: await updated.value };
  await subscription.close();
  return seen;
}

async function subscribe(touch) {
  await client.subscribeResource({ uri: NOTE });
  await touch();
  const seen = { updated: await updated.value };
  await client.unsubscribeResource({ uri: NOTE });
  return seen;
}

await client.connect(
  order.command
    ? new StdioClientTransport({
        command: order.command[0],
        args: order.command.slice(1),
        env: { ...getDefaultEnvironment(), ...order.environment },
      })
    : new sdk.StreamableHTTPClientTransport(new URL(order.url)),
);
const connect = async () => ({
  version: client.getNegotiatedProtocolVersion(),
  server: client.getServerVersion()?.name,
});
const other = stateless
  ? () => client.subscribeResource({ uri: NOTE })
  : () => client.listen({ resourceSubscriptions: [NOTE] });
await report(
  client,
  rows(client, (params, options) => client.callTool(params, options), connect, stateless ? listen : subscribe, {
    other_subscription: () => refusal(other),
    websocket: async () => ({ lacks: 'WebSocketClientTransport' in sdk ? null : 'a WebSocket transport' }),
  }),
);
