package jobgateway.client;

/** The reaction of a client to an error (docs/reference/errors.md). */
public enum Action {
  /** Make the call again. */
  RETRY,
  /** Change the request, or the configuration. */
  FIX,
  /** Get another token. */
  LOGIN,
  /** Look in the VIKTOR app whether there is a job before you send it again. */
  LOOK,
  /** Do nothing: the same call would fail again. */
  GIVE_UP
}
