// A plain SVG: one panel a measure, a bar for each tier a chunk size, the median with the range of the rounds.
const COLOURS = { fs: "#8a8f98", posix: "#1f6feb", nvme: "#2da44e", memory: "#bf8700" };
const PANEL = { width: 250, height: 190, left: 46, top: 40 };

/** @param panels list of {title, unit, groups: [{label, bars: [{tier, median, min, max}]}]} */
export function barChart(title, subtitle, panels) {
  const columns = Math.min(3, panels.length);
  const step = { x: PANEL.width + PANEL.left + 24, y: PANEL.height + 84 };
  const width = columns * step.x + 20;
  const height = Math.ceil(panels.length / columns) * step.y + 84;
  const body = panels.map((panel, i) =>
    drawPanel(panel, 20 + (i % columns) * step.x, 76 + Math.floor(i / columns) * step.y),
  );
  const legend = Object.entries(COLOURS).map(
    ([tier, colour], i) =>
      `<rect x="${width - 340 + i * 80}" y="18" width="12" height="12" fill="${colour}"/><text x="${width - 322 + i * 80}" y="28">${tier}</text>`,
  );
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12" fill="#24292f">`,
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    `<text x="20" y="30" font-size="17" font-weight="bold">${escaped(title)}</text>`,
    `<text x="20" y="50" fill="#57606a">${escaped(subtitle)}</text>`,
    ...legend,
    ...body,
    "</svg>\n",
  ].join("\n");
}

function drawPanel({ title, unit, groups }, x, y) {
  const top = niceCeiling(Math.max(...groups.flatMap(({ bars }) => bars.map(({ max }) => max))));
  const scale = (value) => y + PANEL.top + PANEL.height - (value / top) * PANEL.height;
  const parts = [`<text x="${x}" y="${y + 16}" font-weight="bold">${escaped(title)}</text>`];
  parts.push(`<text x="${x}" y="${y + 31}" fill="#57606a" font-size="11">${escaped(unit)}</text>`);
  for (const fraction of [0, 0.25, 0.5, 0.75, 1]) {
    const at = scale(top * fraction);
    parts.push(
      `<line x1="${x + PANEL.left}" x2="${x + PANEL.left + PANEL.width}" y1="${at}" y2="${at}" stroke="#d0d7de"/>`,
    );
    parts.push(
      `<text x="${x + PANEL.left - 6}" y="${at + 4}" text-anchor="end" font-size="11">${short(top * fraction)}</text>`,
    );
  }
  const groupWidth = PANEL.width / groups.length;
  groups.forEach(({ label, bars }, i) => {
    const barWidth = (groupWidth * 0.7) / bars.length;
    bars.forEach(({ tier, median, min, max }, j) => {
      const at = x + PANEL.left + i * groupWidth + groupWidth * 0.15 + j * barWidth;
      const middle = at + barWidth / 2;
      parts.push(
        `<rect x="${at}" y="${scale(median)}" width="${barWidth - 3}" height="${scale(0) - scale(median)}" fill="${COLOURS[tier]}"/>`,
        `<line x1="${middle}" x2="${middle}" y1="${scale(min)}" y2="${scale(max)}" stroke="#24292f"/>`,
        `<text x="${middle}" y="${scale(max) - 4}" text-anchor="middle" font-size="10">${short(median)}</text>`,
      );
    });
    parts.push(
      `<text x="${x + PANEL.left + (i + 0.5) * groupWidth}" y="${scale(0) + 17}" text-anchor="middle">${escaped(label)}</text>`,
    );
  });
  return parts.join("\n");
}

function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((each) => each * power).find((each) => each >= value * 1.08) ?? value * 1.2;
}

function short(value) {
  if (value === 0) return "0";
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(2);
}

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
