import { type ChannelCredentials, type ChannelOptions, credentials, Metadata } from "@grpc/grpc-js";
import { GatewayError } from "./errors.js";
import { JobServiceClient } from "./gen/jobgateway/v1/job_service.js";

/** TLS; all values are PEM. */
export interface Tls {
  /** The trusted authorities; without them, those of Node.js. */
  ca?: Buffer;
  /** The certificate of the client and its chain, for mutual TLS. It needs `key`. */
  cert?: Buffer;
  /** The private key of `cert`. */
  key?: Buffer;
}

/**
 * A bearer token, or a function that returns one. The function is called before the first call, and again whenever the
 * gateway rejects the token. It returns undefined if there is no (other) token.
 */
export type Token = string | (() => string | undefined | Promise<string | undefined>);

/** A call that can be cancelled. */
interface Cancellable {
  cancel(): void;
}

/** A channel, and the calls that use it. */
export interface Connection {
  readonly stub: JobServiceClient;
  readonly calls: Set<Cancellable>;
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
  #current: Connection;
  #closed = false;

  constructor(target: string, tls: Tls | undefined, options: ChannelOptions) {
    this.#target = target;
    this.#credentials = tls
      ? credentials.createSsl(tls.ca, tls.key, tls.cert)
      : credentials.createInsecure();
    this.#options = options;
    this.#current = this.#connect();
  }

  /** The connection for the next call. Throws if the client is closed. */
  get current(): Connection {
    this.throwIfClosed();
    return this.#current;
  }

  throwIfClosed(): void {
    if (this.#closed) throw new GatewayError("CANCELLED", "the client was closed");
  }

  /** Notes that a call has ended. */
  release(connection: Connection, call: Cancellable): void {
    connection.calls.delete(call);
    this.#closeUnused(connection);
  }

  /** Replaces the connection `used`, unless another call has replaced it already. Calls in flight continue on it. */
  replace(used: Connection): void {
    if (used !== this.#current || this.#closed) return;
    this.#current = this.#connect();
    this.#closeUnused(used);
  }

  /** Closes all connections, and cancels their calls. */
  close(): void {
    this.#closed = true;
    for (const { stub, calls } of this.#open) {
      for (const call of calls) call.cancel();
      stub.close();
    }
    this.#open.clear();
  }

  #closeUnused(connection: Connection): void {
    if (connection !== this.#current && connection.calls.size === 0) {
      this.#open.delete(connection);
      connection.stub.close();
    }
  }

  #connect(): Connection {
    const stub = new JobServiceClient(this.#target, this.#credentials, this.#options);
    const connection = { stub, calls: new Set<Cancellable>() };
    this.#open.add(connection);
    return connection;
  }
}

/** The token of a client, which its calls share. */
export class Credential {
  readonly #source: Token | undefined;
  #token: Promise<string | undefined> | undefined;
  #renewal: Promise<boolean> | undefined;

  constructor(source: Token | undefined) {
    this.#source = source;
  }

  /** Returns the current token, after the first login. */
  async token(): Promise<string | undefined> {
    this.#token ??= this.#ask();
    try {
      return await this.#token;
    } catch (error) {
      this.#token = undefined;
      throw error;
    }
  }

  /** Logs in once for all calls that had the rejected token. Returns false if there is no other token. */
  async renew(rejected: string | undefined): Promise<boolean> {
    if ((await this.token()) !== rejected) return true;
    if (typeof this.#source !== "function") return false;
    this.#renewal ??= this.#logIn().finally(() => {
      this.#renewal = undefined;
    });
    return await this.#renewal;
  }

  async #logIn(): Promise<boolean> {
    const fresh = await this.#ask();
    if (fresh === undefined) return false;
    this.#token = Promise.resolve(fresh);
    return true;
  }

  async #ask(): Promise<string | undefined> {
    return typeof this.#source === "function" ? await this.#source() : this.#source;
  }
}

/** Returns the metadata for one call. Proxies can route by `x-job-uid`, so that all watches of a job share polls. */
export function metadataFor(token: string | undefined, uid?: string): Metadata {
  const metadata = new Metadata();
  if (token !== undefined) metadata.set("authorization", `Bearer ${token}`);
  if (uid !== undefined) metadata.set("x-job-uid", uid);
  return metadata;
}

/** Returns whether the trailers of a response say that it repeats an earlier submission. */
export function isReplayed(trailers: Metadata): boolean {
  return trailers.get("jobgateway-replayed").includes("true");
}
