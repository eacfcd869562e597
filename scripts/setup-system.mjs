// System packages that suites need, for `npm test -- --all`. None is needed yet.
console.log("no system packages are needed");
