"""Direct mode (docs/direct-mode.md): vLLM offloads into the server's memory, and has none of its own for it."""
