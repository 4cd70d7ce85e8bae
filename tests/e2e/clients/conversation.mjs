// What the two TypeScript client programs share: their order, the questions they ask the test, the rows they take.
//
// The same protocol as conversation.py: one JSON argument in; questions and, as the last line, the report on stdout;
// answers on stdin. A row that fails is reported with its stack, and the next row runs. A client never judges whether
// a call was stopped: it asks, and stays connected until it has the answer.

import { createInterface } from 'node:readline';

export const NOTE = 'notes://today';
export const order = JSON.parse(process.argv[2]);

const ROW_MS = 15_000;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function ask(question, mark) {
  process.stdout.write(JSON.stringify({ ask: question, mark }) + '\n');
  return JSON.parse((await lines.next()).value);
}

function within(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came within ${ROW_MS} ms`)), ROW_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Resolves with the first value that `deliver` is called with.
export function once() {
  let deliver;
  const value = new Promise((resolve) => {
    deliver = resolve;
  });
  return { value, deliver };
}

// The rows that both lines of the SDK take alike. `call(params, options)` calls a tool; `subscribing(touch)` opens a
// subscription to NOTE, runs `touch`, returns the URI that was announced (beside what else it saw).
export function rows(client, call, connect, subscribing, more) {
  const text = async (name, args) => (await call({ name, arguments: args }, {})).content[0].text;
  const read = async (uri) => (await client.readResource({ uri })).contents[0].text;

  const cancel = async (speak) => {
    const mark = `${order.lane}-${speak}`;
    const abort = new AbortController();
    const options = { signal: abort.signal, ...(speak ? { onprogress: () => {} } : {}) };
    const outcome = call({ name: 'linger', arguments: { mark, speak } }, options).then(
      () => 'returned',
      () => 'rejected',
    );
    await ask('started', mark);
    abort.abort('enough');
    const here = await outcome;
    const stopped = await ask('stopped', mark);
    return { ...stopped, here, then: await text('echo', { text: 'still here' }) };
  };

  return {
    connect,
    list: async () => ({
      tools: (await client.listTools()).tools.map((tool) => tool.name),
      resources: (await client.listResources()).resources.map((resource) => resource.uri),
      templates: (await client.listResourceTemplates()).resourceTemplates.map((template) => template.uriTemplate),
      prompts: (await client.listPrompts()).prompts.map((prompt) => prompt.name),
    }),
    call: () => text('echo', { text: 'héllo' }),
    structured: async () => {
      const result = await call({ name: 'measure', arguments: { text: 'to be or nought' } }, {});
      return result.structuredContent ?? { lacks: 'structuredContent', text: result.content[0].text };
    },
    tool_error: async () => {
      const result = await call({ name: 'refuse', arguments: {} }, {});
      return { isError: result.isError, text: result.content[0].text };
    },
    progress: async () => {
      const seen = [];
      const onprogress = ({ progress, total, message }) => seen.push([progress, total, message]);
      await call({ name: 'count', arguments: { steps: 3 } }, { onprogress });
      return seen;
    },
    elicitation: async () => {
      const result = await call({ name: 'greet', arguments: {} }, {}).catch((error) => ({ lacks: error.message }));
      if (result.lacks) return result;
      return result.isError ? { lacks: result.content[0].text } : result.content[0].text;
    },
    read: () => read('notes://past/monday'),
    search: async () => {
      const link = (await call({ name: 'search_documents', arguments: { query: 'tide' } }, {})).content[1];
      // The revisions that know no links get the same as text, the URI last.
      return read(link.uri ?? link.text.split(': ').pop());
    },
    subscribe: async () => {
      let written;
      const seen = await subscribing(async () => {
        written = await text('touch', {});
      });
      return { ...seen, same: written === (await read(NOTE)) };
    },
    prompt: async () => {
      const message = (await client.getPrompt({ name: 'review', arguments: { topic: 'the draft' } })).messages[0];
      return { role: message.role, text: message.content.text };
    },
    cancel_json: () => cancel(false),
    cancel_stream: () => cancel(true),
    ...more,
  };
}

// Runs the rows in order, prints the report, ends the process.
export async function report(client, taken) {
  const found = {};
  for (const [name, row] of Object.entries(taken)) {
    try {
      found[name] = await within(row());
    } catch (error) {
      found[name] = { failed: String(error?.stack ?? error).slice(0, 3000) };
    }
  }
  await client.close();
  process.stdout.write(JSON.stringify({ report: found }) + '\n', () => process.exit(0));
}

// What the message of the error is that `attempt` ends with, or null when it does not fail: a way that is not there.
export async function refusal(attempt) {
  try {
    await attempt();
    return { lacks: null };
  } catch (error) {
    return { lacks: error.message };
  }
}
