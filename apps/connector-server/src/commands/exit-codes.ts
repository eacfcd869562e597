/** Stable: scripts and unit files rely on them. */
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
export const EXIT_TAKEN = 3;
/** 128 and the signal's number, as shells report it. */
export const EXIT_SIGNALLED = 128;
