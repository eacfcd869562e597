// Seeded traces of different character. Each is a list of requests `{timestamp, hash_ids}` as in the JSONL form: equal id = equal block
// and equal prefix before it.

/** mulberry32: seeded and the same on every machine. */
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Draws 0 … count - 1, item i with a weight of 1 / (i + 1)^skew. */
function zipf(random, count, skew) {
  const sums = new Float64Array(count);
  let total = 0;
  for (let i = 0; i < count; i++) {
    total += (i + 1) ** -skew;
    sums[i] = total;
  }
  return () => {
    const wanted = random() * total;
    let [low, high] = [0, count - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sums[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  };
}

/** What a generator draws with: a clock, new blocks, and the requests that it made. */
class Recorder {
  constructor(seed, blocks) {
    this.random = generator(seed);
    this.blocks = blocks;
    this.requests = [];
    this.made = 0;
    this.nextId = 0;
    this.now = 0;
  }
  get full() {
    return this.made >= this.blocks;
  }
  /** How far the trace is, 0 to 1. */
  get progress() {
    return this.made / this.blocks;
  }
  fresh(count) {
    return Array.from({ length: count }, () => this.nextId++);
  }
  between(low, high) {
    return low + Math.floor(this.random() * (high - low + 1));
  }
  exponential(mean) {
    return -mean * Math.log(1 - this.random());
  }
  request(ids) {
    this.now += this.exponential(300);
    this.requests.push({ timestamp: Math.round(this.now), hash_ids: ids });
    this.made += ids.length;
  }
}

/** Conversations that grow by a few blocks a turn, and end; a few users talk much, most little. */
function chat(trace, { users = 2000, skew = 0.9, systemPrompts = 5, end = 0.15 } = {}) {
  const user = zipf(trace.random, users, skew);
  const prompts = Array.from({ length: systemPrompts }, () => trace.fresh(trace.between(1, 6)));
  const open = new Map();
  return () => {
    const who = user();
    let context = open.get(who);
    if (context === undefined || trace.random() < end) context = prompts[who % systemPrompts];
    context = [...context, ...trace.fresh(1 + Math.floor(trace.exponential(4)))].slice(0, 250);
    open.set(who, context);
    trace.request(context);
  };
}

/** Prompts shared by many, each followed by a tail that is never seen again. */
function sharedPrompts(trace, { prompts = 300, skew = 0.8 } = {}) {
  const draw = zipf(trace.random, prompts, skew);
  const heads = Array.from({ length: prompts }, () => trace.fresh(trace.between(4, 40)));
  return () => trace.request([...heads[draw()], ...trace.fresh(trace.between(1, 20))]);
}

/** Agents in a loop of steps: long contexts that grow by a block or three, asked again and again within a short time, then done for good. */
function agents(trace, { running = 60, steps = 40, pauses = 0.1 } = {}) {
  const tools = Array.from({ length: 4 }, () => trace.fresh(12));
  const start = () => [...tools[trace.between(0, 3)], ...trace.fresh(trace.between(2, 30))];
  const contexts = Array.from({ length: running }, start);
  let busy = 0;
  return () => {
    if (trace.random() < pauses) busy = trace.between(0, running - 1);
    const who = trace.random() < 0.5 ? busy : trace.between(0, running - 1);
    contexts[who] = trace.random() < 1 / steps ? start() : [...contexts[who], ...trace.fresh(trace.between(1, 3))];
    trace.request(contexts[who]);
  };
}

/** Documents read once, of which no block comes again. */
function scan(trace) {
  return () => trace.request(trace.fresh(trace.between(20, 120)));
}

/** The same documents in the same order, for ever. */
function loop(trace, { documents = 400, blocks = 20 } = {}) {
  const all = Array.from({ length: documents }, () => trace.fresh(blocks));
  let next = 0;
  return () => trace.request(all[next++ % documents]);
}

/** Documents drawn independently, some more often than others; `shiftsAt` gives the progress at which all become others. */
function documents(trace, { count = 4000, blocks = 8, skew = 0.8, shiftsAt = [], driftsBy = 0 } = {}) {
  const draw = zipf(trace.random, count, skew);
  const all = new Map();
  return () => {
    const shift = shiftsAt.filter((at) => trace.progress >= at).length * count;
    const drift = Math.floor(trace.progress * driftsBy * count);
    const name = shift + ((draw() + drift) % (count + drift));
    let document = all.get(name);
    if (document === undefined) {
      document = trace.fresh(1 + Math.floor(trace.random() * 2 * blocks));
      all.set(name, document);
    }
    trace.request(document);
  };
}

/** What was used last is the likeliest next, by its depth in the stack of recency: LRU is the best there is. */
function recency(trace, { fresh = 0.35, depth = 60, blocks = 10 } = {}) {
  const stack = [];
  return () => {
    const at = Math.floor(trace.exponential(depth) * (0.2 + trace.exponential(1)));
    const document =
      trace.random() < fresh || at >= stack.length
        ? trace.fresh(trace.between(1, 2 * blocks))
        : stack.splice(stack.length - 1 - at, 1)[0];
    stack.push(document);
    if (stack.length > 5000) stack.shift();
    trace.request(document);
  };
}

/** Flash crowds: a document that all ask for within a short time and then nobody, over a background of conversations. */
function bursts(trace) {
  const background = chat(trace, { users: 800 });
  let [document, left] = [[], 0];
  return () => {
    if (trace.random() < 0.4) {
      background();
      return;
    }
    if (left-- <= 0) [document, left] = [trace.fresh(trace.between(5, 60)), Math.floor(trace.exponential(8))];
    trace.request([...document, ...trace.fresh(trace.between(1, 4))]);
  };
}

/** A prompt and a few retrieved passages in an order of chance: equal passages are different blocks after different prefixes. */
function retrieval(trace, { passages = 400, skew = 1.1 } = {}) {
  const draw = zipf(trace.random, passages, skew);
  const prompt = trace.fresh(3);
  const nodes = new Map();
  return () => {
    let path = "";
    const ids = [...prompt];
    for (let i = trace.between(1, 4); i > 0; i--) {
      path += `/${draw()}`;
      let blocks = nodes.get(path);
      if (blocks === undefined) {
        blocks = trace.fresh(2);
        nodes.set(path, blocks);
      }
      ids.push(...blocks);
    }
    trace.request([...ids, ...trace.fresh(1)]);
  };
}

/** Each step is one of the sources, drawn by weight. */
function mix(trace, parts) {
  const total = parts.reduce((sum, [weight]) => sum + weight, 0);
  return () => {
    let left = trace.random() * total;
    for (const [weight, step] of parts) {
      left -= weight;
      if (left < 0) {
        step();
        return;
      }
    }
  };
}

/** One source after the other, each for an equal share of the trace. */
function phases(trace, steps) {
  return () => steps[Math.min(steps.length - 1, Math.floor(trace.progress * steps.length))]();
}

/** Name → how its step is made. */
const KINDS = {
  chat: (trace) => chat(trace),
  "shared-prompts": (trace) => sharedPrompts(trace),
  agents: (trace) => agents(trace),
  "chat-and-scans": (trace) =>
    mix(trace, [
      [9, chat(trace, { users: 600 })],
      [1, scan(trace)],
    ]),
  "documents-and-scans": (trace) =>
    mix(trace, [
      [8, documents(trace, { count: 1500 })],
      [1, scan(trace)],
    ]),
  loop: (trace) => loop(trace),
  "loop-and-chat": (trace) =>
    mix(trace, [
      [1, loop(trace)],
      [2, chat(trace, { users: 500 })],
    ]),
  irm: (trace) => documents(trace),
  "irm-single-blocks": (trace) => documents(trace, { count: 30_000, blocks: 0.5, skew: 0.9 }),
  shift: (trace) => documents(trace, { shiftsAt: [0.5] }),
  drift: (trace) => documents(trace, { count: 2500, skew: 0.9, driftsBy: 3 }),
  recency: (trace) => recency(trace),
  bursts: (trace) => bursts(trace),
  retrieval: (trace) => retrieval(trace),
  phases: (trace) => phases(trace, [recency(trace), loop(trace, { documents: 300 }), recency(trace), chat(trace)]),
};

/** Names of the traces that `syntheticTrace` makes. */
export const SYNTHETIC = Object.keys(KINDS);

/** The requests of a synthetic trace with about `blocks` block references. */
export function syntheticTrace(name, { seed = 1, blocks = 150_000 } = {}) {
  const trace = new Recorder(seed, blocks);
  const step = KINDS[name](trace);
  while (!trace.full) step();
  return trace.requests;
}
