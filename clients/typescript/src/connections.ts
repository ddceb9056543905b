import { X509Certificate } from "node:crypto";
import { type ChannelCredentials, type ChannelOptions, credentials, Metadata } from "@grpc/grpc-js";
import type { Login } from "./credential.js";
import { GatewayError, invalid } from "./errors.js";
import { JobServiceClient } from "./gen/jobgateway/v1/job_service.js";

/** TLS; all values are PEM. */
export interface Tls {
  /** The trusted CA certificates; without them, those of Node.js. */
  ca?: Buffer;
  /** The certificate of the client and its chain, for mutual TLS. It needs `key`. */
  cert?: Buffer;
  /** The private key of `cert`. */
  key?: Buffer;
}

/** A channel, and the number of calls that use it. */
export interface Connection {
  readonly stub: JobServiceClient;
  calls: number;
}

/**
 * The current connection of a client, and the older ones that still have calls. The first call that finds a connection
 * broken replaces it for all. The old one is closed after its last call.
 */
export class Connections {
  readonly #target: string;
  readonly #credentials: ChannelCredentials;
  readonly #options: ChannelOptions;
  readonly #open = new Set<Connection>();
  readonly #closing = new AbortController();
  #current: Connection;

  constructor(target: string, credentials: ChannelCredentials, options: ChannelOptions) {
    this.#target = checkedTarget(target);
    this.#credentials = credentials;
    this.#options = options;
    this.#current = this.#connect();
  }

  /** The connection for the next call. Throws if the client is closed. */
  get current(): Connection {
    this.closed.throwIfAborted();
    return this.#current;
  }

  /** Is aborted when the client is closed. */
  get closed(): AbortSignal {
    return this.#closing.signal;
  }

  /** Notes that a call has ended. */
  release(connection: Connection): void {
    connection.calls--;
    this.#closeUnused(connection);
  }

  /** Replaces the connection `used`, unless another call has replaced it already. Calls in flight continue on it. */
  replace(used: Connection): void {
    if (used !== this.#current || this.closed.aborted) return;
    this.#current = this.#connect();
    this.#closeUnused(used);
  }

  /** Ends all calls and waits, and closes all connections. */
  close(): void {
    const error = new GatewayError("CANCELLED", "the client was closed", { reason: "CLOSED" });
    this.#closing.abort(error);
    for (const { stub } of this.#open) stub.close();
    this.#open.clear();
  }

  #closeUnused(connection: Connection): void {
    if (connection !== this.#current && connection.calls === 0) {
      this.#open.delete(connection);
      connection.stub.close();
    }
  }

  #connect(): Connection {
    const stub = new JobServiceClient(this.#target, this.#credentials, this.#options);
    const connection = { stub, calls: 0 };
    this.#open.add(connection);
    return connection;
  }
}

/** Returns the credentials of a channel. Throws if a certificate or the key is malformed. */
export function credentialsOf(tls: Tls | undefined): ChannelCredentials {
  if (!tls) return credentials.createInsecure();
  try {
    // Node.js ignores trusted certificates that it cannot read.
    if (tls.ca) new X509Certificate(tls.ca);
    return credentials.createSsl(tls.ca, tls.key, tls.cert);
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    throw invalid(`tls must have a certificate chain and its key in PEM: ${problem}`, error);
  }
}

function checkedTarget(target: string): string {
  if (/^\S+$/.test(target) && !/^https?:/i.test(target)) return target;
  throw invalid(
    `target must be HOST:PORT, without a scheme or white space (got ${JSON.stringify(target)})`,
  );
}

/** Returns the metadata for one call. Proxies can route by `x-job-uid`, so that all watches of a job share polls. */
export function metadataFor({ token }: Login, uid?: string): Metadata {
  const metadata = new Metadata();
  if (token !== undefined) metadata.set("authorization", `Bearer ${token}`);
  if (uid !== undefined) metadata.set("x-job-uid", uid);
  return metadata;
}

/** Returns whether the trailers of a response say that it repeats an earlier submission. */
export function isReplayed(trailers: Metadata): boolean {
  return trailers.get("jobgateway-replayed").includes("true");
}
