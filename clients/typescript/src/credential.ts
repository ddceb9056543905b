import { invalid } from "./errors.js";

/**
 * A bearer token, or a function that returns one. The function is called before the first call, and again whenever the
 * gateway rejects the token. It returns undefined if there is no (other) token.
 */
export type Token = string | (() => string | undefined | Promise<string | undefined>);

/** The result of a login. Two logins may have the same token. */
export interface Login {
  readonly token: string | undefined;
}

/** The token of a client, which its calls share. */
export class Credential {
  readonly #source: Exclude<Token, string> | undefined;
  #login: Login | undefined;
  #pending: Promise<boolean> | undefined;

  constructor(source: Token | undefined) {
    if (typeof source === "function") this.#source = source;
    else this.#login = { token: checked(source) };
  }

  /** Returns the current login, after the first one. */
  async current(): Promise<Login> {
    while (!this.#login) await this.#logInOnce();
    return this.#login;
  }

  /** Logs in once for all calls of the rejected login. Returns false if there is no other token. */
  async renew(rejected: Login): Promise<boolean> {
    if (this.#login !== rejected) return true;
    return this.#source !== undefined && (await this.#logInOnce());
  }

  /** Logs in, or waits for the login that another call began. If that one fails, the next of the waiting calls tries it. */
  async #logInOnce(): Promise<boolean> {
    for (;;) {
      const isOwn = this.#pending === undefined;
      this.#pending ??= this.#logIn().finally(() => {
        this.#pending = undefined;
      });
      try {
        return await this.#pending;
      } catch (error) {
        if (isOwn) throw error;
      }
    }
  }

  async #logIn(): Promise<boolean> {
    const token = checked(await this.#source?.());
    if (token === undefined && this.#login) return false;
    this.#login = { token };
    return true;
  }
}

/** Returns a token that a header can carry. The error of another one, unlike gRPC's, does not contain it. */
function checked(token: string | null | undefined): string | undefined {
  if (token === undefined || token === null) return undefined;
  if (typeof token === "string" && /^[!-~]+$/.test(token)) return token;
  throw invalid(
    "the token is empty, or has a line break or another character that no header can carry: " +
      "remove white space at its ends",
  );
}
