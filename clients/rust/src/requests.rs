//! Constructors of requests.

use rand::random;

use crate::pb::{RunJobRequest, SendJobRequest, send_job_request::Input};

impl SendJobRequest {
    /// Creates a request with a random `request_id`, so that it can be sent again safely. `params_json` is a JSON object.
    pub fn new(
        workspace_id: impl Into<String>,
        entity_id: i64,
        method_name: impl Into<String>,
        params_json: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            workspace_id: workspace_id.into(),
            entity_id,
            method_name: Some(method_name.into()),
            request_id: format!("{:032x}", random::<u128>()),
            input: Some(Input::ParamsJson(params_json.into())),
            ..Self::default()
        }
    }
}

impl From<SendJobRequest> for RunJobRequest {
    fn from(request: SendJobRequest) -> Self {
        Self {
            request: Some(request),
            ..Self::default()
        }
    }
}
