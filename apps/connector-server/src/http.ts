import { KvferryError } from "@kvferry/core";
import { type FastifyInstance, fastify } from "fastify";
import type { Registry } from "prom-client";
import type { HttpAddress } from "./config.js";

export interface HttpSources {
  readonly registry: Registry;
  /** Why the server is not ready, or undefined when it is. */
  unready(): Promise<string | undefined>;
  status(): Promise<object>;
}

export interface HttpServer {
  readonly address: HttpAddress;
  close(): Promise<void>;
}

const REQUEST_TIMEOUT_MS = 10_000;
const CONNECTIONS_MAX = 64;

/** Metrics, health and status. It tells, and changes nothing.
 * @throws KvferryError UNAVAILABLE if the port is taken. */
export async function startHttp(address: HttpAddress, sources: HttpSources): Promise<HttpServer> {
  const app = fastify({
    logger: false,
    forceCloseConnections: true,
    bodyLimit: 1024,
    requestTimeout: REQUEST_TIMEOUT_MS,
  });
  app.server.maxConnections = CONNECTIONS_MAX;
  routes(app, sources);
  try {
    await app.listen({ host: address.host, port: address.port });
  } catch (cause) {
    await app.close();
    throw listenError(address, cause as NodeJS.ErrnoException);
  }
  const bound = app.server.address();
  const port = typeof bound === "object" && bound !== null ? bound.port : address.port;
  return { address: { host: address.host, port }, close: () => app.close() };
}

function routes(app: FastifyInstance, sources: HttpSources): void {
  app.get("/healthz", async (_request, reply) => reply.type("text/plain").send("ok\n"));
  app.get("/readyz", async (_request, reply) => {
    const reason = await sources.unready();
    return reply
      .code(reason === undefined ? 200 : 503)
      .type("text/plain")
      .send(reason === undefined ? "ready\n" : `not ready: ${reason}\n`);
  });
  app.get("/metrics", async (_request, reply) => {
    const text = await sources.registry.metrics();
    return reply.type(sources.registry.contentType).send(text);
  });
  app.get("/v1/status", async () => sources.status());
}

function listenError({ host, port }: HttpAddress, cause: NodeJS.ErrnoException): KvferryError {
  const reasons: Record<string, string> = {
    EADDRINUSE: `port ${port} of ${host} is taken, perhaps by another kvferry; give another with --http HOST:PORT, or --http off`,
    EACCES: `no right to listen at port ${port}; ports below 1024 are for root`,
    EADDRNOTAVAIL: `${host} is no address of this machine`,
  };
  const reason = reasons[cause.code ?? ""] ?? cause.message;
  return new KvferryError("UNAVAILABLE", `http: ${reason}`, {
    operation: "listen",
    context: { field: "http", host, port },
    cause,
  });
}
