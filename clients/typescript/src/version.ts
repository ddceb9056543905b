/** The version of this package, which is that of the gateway. */
export const VERSION = "0.1.0";
