"""The names of the settings of the stores."""

STATE_URL = "JOBGATEWAY_STATE_URL"
KEY_FILE = "JOBGATEWAY_STATE_KEY_FILE"
