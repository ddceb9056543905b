import { type ChannelOptions, credentials, Metadata } from "@grpc/grpc-js";
import { JobServiceClient } from "./gen/jobgateway/v1/job_service.js";

export interface GatewayOptions {
  /** `host:port`. */
  target: string;
  /** The published service config, as JSON. */
  serviceConfig: string;
  token: string;
  /** Logs in again and returns the new bearer token. */
  logIn: () => Promise<string>;
}

/** A connection to the gateway, with a credential. */
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

  /** Returns the metadata for one call. Proxies can route by `x-job-uid`, so that all watches of a job share polls. */
  metadata(request: object = {}): Metadata {
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${this.#token}`);
    if ("uid" in request) metadata.set("x-job-uid", String(request.uid));
    return metadata;
  }

  /** Replaces the token with a fresh one. */
  async logIn(): Promise<void> {
    this.#token = await this.#options.logIn();
  }

  /** Replaces the client `used`, unless another watch has replaced it already. Calls in flight continue on it. */
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
      // Without it, a new client would share the connection of the old one.
      "grpc.use_local_subchannel_pool": 1,
    };
    return new JobServiceClient(this.#options.target, credentials.createInsecure(), options);
  }
}
