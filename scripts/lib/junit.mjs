/** Adds up the attributes of every <testsuite>; pytest counts errors apart from failures, we do not. */
export function countJunit(xml) {
  const total = { tests: 0, failures: 0, errors: 0, skipped: 0 };
  for (const [tag] of xml.matchAll(/<testsuite\s[^>]*>/g)) {
    for (const key of Object.keys(total)) total[key] += Number(new RegExp(`\\s${key}="(\\d+)"`).exec(tag)?.[1] ?? 0);
  }
  const failed = total.failures + total.errors;
  return { passed: Math.max(0, total.tests - failed - total.skipped), failed, skipped: total.skipped };
}
