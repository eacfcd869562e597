// Nothing to compile yet: the loader is TypeScript only.
