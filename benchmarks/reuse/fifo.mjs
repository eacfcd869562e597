// First in, first out: the simplest policy there is, and how one of your own looks.

/** A policy for POLICIES' form: lets go of what was inserted longest ago. */
export function fifo({ table }) {
  /** Rows in the order of their insertion; a Map keeps it. */
  const rows = new Map();
  let inserted = 0;
  return {
    name: "fifo",
    memoryBytes: 0,
    inserted: (row) => rows.set(row, inserted++),
    used: () => {},
    removed: (row) => rows.delete(row),
    victim() {
      for (const row of rows.keys()) if (table.children(row) === 0) return row;
      return rows.keys().next().value ?? -1;
    },
    worth: (row) => rows.get(row) ?? -1,
  };
}
