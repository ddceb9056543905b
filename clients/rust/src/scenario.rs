//! The scenario file.

use jobclient::pb::{SendJobRequest, send_job_request::Input};
use jobclient::values::struct_from_json;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value};

#[derive(Deserialize)]
pub struct Scenario {
    pub steps: Vec<Step>,
}

#[derive(Deserialize)]
pub struct Step {
    /// The job of the step. Default: the job of the last `send`.
    #[serde(default, deserialize_with = "int64")]
    pub uid: Option<i64>,
    #[serde(flatten)]
    pub operation: Operation,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Operation {
    Send {
        request: JobRequest,
    },
    Get,
    Wait {
        timeout_seconds: u64,
    },
    Cancel,
    Watch {
        heartbeat_seconds: Option<u64>,
        #[serde(default)]
        chunks: bool,
    },
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct JobRequest {
    workspace_id: String,
    entity_id: i64,
    method_name: Option<String>,
    pub request_id: String,
    params: Option<Map<String, Value>>,
}

impl From<JobRequest> for SendJobRequest {
    fn from(request: JobRequest) -> Self {
        Self {
            workspace_id: request.workspace_id,
            entity_id: request.entity_id,
            method_name: request.method_name,
            request_id: request.request_id,
            input: request.params.map(struct_from_json).map(Input::Params),
            ..Default::default()
        }
    }
}

/// Reads an int64 in protobuf's JSON format, which is a string.
fn int64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(D::Error::custom)
}
