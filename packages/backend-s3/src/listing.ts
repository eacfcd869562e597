import type { ListedObject, ListPage, RequestOptions, S3Requests } from "./requests.js";

/** Listings on the way at once. */
const SHARDS_AT_ONCE = 16;

/**
 * The objects below `root`, in pages of no order. One plain listing answers for up to 1,000 objects; where there are more, the 256 shards
 * `<root><hh>/` are listed side by side from where the first page has ended.
 */
export async function* listObjects(
  requests: S3Requests,
  root: string,
  options: RequestOptions,
): AsyncGenerator<readonly ListedObject[]> {
  const first = await requests.list({ prefix: root }, options);
  if (first.objects.length > 0) yield first.objects;
  yield* sideBySide(
    shardsAfter(first, root).map(
      ({ prefix, startAfter }) =>
        () =>
          pages(requests, prefix, startAfter, options),
    ),
    SHARDS_AT_ONCE,
  );
}

/** The shards that hold what the first page below `root` does not. */
export function shardsAfter({ objects, next }: ListPage, root: string): { prefix: string; startAfter?: string }[] {
  const last = objects.at(-1)?.name;
  if (next === undefined || last === undefined) return [];
  const from = last.slice(root.length, root.length + 2);
  const shards = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, "0")).filter((hh) => hh >= from);
  return shards.map((hh) => ({ prefix: `${root}${hh}/`, ...(hh === from && { startAfter: last }) }));
}

/** The objects below `prefix` in order of their names, up to 1,000 a page. */
export async function* pages(
  requests: S3Requests,
  prefix: string,
  startAfter: string | undefined,
  options: RequestOptions,
): AsyncGenerator<readonly ListedObject[]> {
  let token: string | undefined;
  do {
    const page = await requests.list({ prefix, token, startAfter }, options);
    if (page.objects.length > 0) yield page.objects;
    token = page.next;
  } while (token !== undefined);
}

/** What several sources yield, as it comes, a bounded number of them at once. */
async function* sideBySide<T>(sources: (() => AsyncGenerator<T>)[], atOnce: number): AsyncGenerator<T> {
  const left = sources.slice();
  const running = new Map<AsyncGenerator<T>, Promise<{ from: AsyncGenerator<T>; step: IteratorResult<T> }>>();
  const advance = (from: AsyncGenerator<T>): void => {
    const next = from.next().then((step) => ({ from, step }));
    next.catch(() => {}); // whoever races hears of it; the others are let go
    running.set(from, next);
  };
  try {
    for (;;) {
      while (running.size < atOnce && left.length > 0) advance((left.shift() as () => AsyncGenerator<T>)());
      if (running.size === 0) return;
      const { from, step } = await Promise.race(running.values());
      if (step.done) running.delete(from);
      else {
        advance(from);
        yield step.value;
      }
    }
  } finally {
    for (const from of running.keys()) from.return(undefined).catch(() => {});
  }
}
