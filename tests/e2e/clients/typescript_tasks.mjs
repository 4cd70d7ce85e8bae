// What the official TypeScript client of the 2.x line makes of a task: node typescript_tasks.mjs URL.
//
// It declares the tasks extension and calls a tool that becomes a task then, and one of a client that declares nothing,
// for which the same tool answers at once. Prints one JSON object; started by test_balanced_clients.

import * as sdk from '@modelcontextprotocol/client';

async function call(extensions) {
  const client = new sdk.Client(
    { name: 'mcpd-e2e', version: '1' },
    { capabilities: { extensions }, versionNegotiation: { mode: 'auto' } },
  );
  await client.connect(new sdk.StreamableHTTPClientTransport(new URL(process.argv[2])));
  try {
    const result = await client.callTool({ name: 'quick', arguments: {} });
    return { version: client.getNegotiatedProtocolVersion(), text: result.content?.[0]?.text ?? null };
  } catch (error) {
    return { version: client.getNegotiatedProtocolVersion(), refused: error.message };
  } finally {
    await client.close();
  }
}

const found = { with: await call({ 'io.modelcontextprotocol/tasks': {} }), without: await call({}) };
process.stdout.write(JSON.stringify(found) + '\n', () => process.exit(0));
