// Names of platforms, as packages and folders carry them: linux-x64-glibc, linux-arm64-musl, …

/** "glibc" or "musl". */
export function libc() {
  return process.report.getReport().header.glibcVersionRuntime === undefined ? "musl" : "glibc";
}

export function platformName() {
  return `${process.platform}-${process.arch}-${libc()}`;
}
