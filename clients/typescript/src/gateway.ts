import { type ChannelOptions, credentials, Metadata } from "@grpc/grpc-js";
import { JobServiceClient } from "./gen/jobgateway/v1/job_service.js";

export interface GatewayOptions {
  /** `host:port`. */
  target: string;
  /** The published service config, as JSON. */
  serviceConfig: string;
  token: string;
  /** Gets a fresh bearer token. */
  logIn: () => Promise<string>;
}

/** A connection to the gateway, and the bearer token of its calls. */
export class Gateway {
  readonly #options: GatewayOptions;
  #client: JobServiceClient;
  #token: string;

  constructor(options: GatewayOptions) {
    this.#options = options;
    this.#client = this.#connect();
    this.#token = options.token;
  }

  get client(): JobServiceClient {
    return this.#client;
  }

  /** Metadata for one call. */
  metadata(): Metadata {
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${this.#token}`);
    return metadata;
  }

  async logIn(): Promise<void> {
    this.#token = await this.#options.logIn();
  }

  /** Makes a new connection for the calls to come, unless `used` is the old one already. Its other calls run on. */
  reconnect(used: JobServiceClient): void {
    if (used !== this.#client) return;
    this.#client.close();
    this.#client = this.#connect();
  }

  close(): void {
    this.#client.close();
  }

  #connect(): JobServiceClient {
    const options: ChannelOptions = {
      "grpc.service_config": this.#options.serviceConfig,
      "grpc.keepalive_time_ms": 20_000,
      "grpc.keepalive_timeout_ms": 10_000,
      // Otherwise clients of the same target share their connections, and a new one is none.
      "grpc.use_local_subchannel_pool": 1,
    };
    return new JobServiceClient(this.#options.target, credentials.createInsecure(), options);
  }
}
