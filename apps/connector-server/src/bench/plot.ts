import { bytesText } from "../sizes.js";
import type { BenchRow } from "./measure.js";

const BAR = 30;
const COLOURS = { store: "#4c78a8", load: "#f58518" } as const;
const [WIDTH, ROW, LEFT, TOP] = [640, 44, 110, 40];

/** Bars for a terminal. */
export function benchText(rows: readonly BenchRow[]): string {
  const most = Math.max(...rows.flatMap((row) => [row.storeBytesPerSecond, row.loadBytesPerSecond]));
  const bar = (value: number): string => "█".repeat(Math.max(1, Math.round((value / most) * BAR))).padEnd(BAR);
  return rows
    .flatMap((row) => [
      `${bytesText(row.blockBytes).padStart(9)}  store ${bar(row.storeBytesPerSecond)} ${bytesText(row.storeBytesPerSecond)}/s`,
      `${" ".repeat(9)}  load  ${bar(row.loadBytesPerSecond)} ${bytesText(row.loadBytesPerSecond)}/s`,
      `${" ".repeat(9)}  lookup of 256 keys: ${row.lookupHitUs.toFixed(0)} µs there, ${row.lookupMissUs.toFixed(0)} µs not there`,
    ])
    .map((line) => `${line}\n`)
    .join("");
}

/** The same as a picture. `title` comes from a command line. */
export function benchSvg(title: string, rows: readonly BenchRow[]): string {
  const most = Math.max(...rows.flatMap((row) => [row.storeBytesPerSecond, row.loadBytesPerSecond]));
  const bar = (y: number, what: keyof typeof COLOURS, value: number): string => {
    const width = ((WIDTH - LEFT - 120) * value) / most;
    return (
      `<rect x="${LEFT}" y="${y}" width="${width.toFixed(1)}" height="16" fill="${COLOURS[what]}"/>` +
      `<text x="${(LEFT + width + 6).toFixed(1)}" y="${y + 13}">${what} ${bytesText(value)}/s</text>`
    );
  };
  const bars = rows.map((row, i) => {
    const y = TOP + i * ROW;
    return (
      `<text x="${LEFT - 8}" y="${y + 22}" text-anchor="end">${bytesText(row.blockBytes)}</text>` +
      bar(y, "store", row.storeBytesPerSecond) +
      bar(y + 18, "load", row.loadBytesPerSecond)
    );
  });
  const height = TOP + rows.length * ROW + 10;
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" font-family="sans-serif" font-size="12">` +
    `<rect width="100%" height="100%" fill="white"/><text x="10" y="22" font-size="14">${escaped(title)}</text>${bars.join("")}</svg>\n`
  );
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
