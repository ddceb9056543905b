//! The scenario file.

use std::time::Duration;

use anyhow::Result;
use jobgateway_client::pb::{
    ContentFormat, SendJobRequest, WatchJobRequest, send_job_request::Input,
};
use jobgateway_client::struct_from_json;
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
        #[serde(default = "one")]
        count: usize,
    },
    Get,
    Wait {
        timeout_seconds: u64,
    },
    Cancel,
    Watch {
        #[serde(flatten)]
        options: WatchOptions,
    },
    Run {
        request: JobRequest,
        #[serde(flatten)]
        options: WatchOptions,
    },
    WatchEach {
        #[serde(flatten)]
        options: WatchOptions,
    },
    WatchAll {
        /// Jobs in addition to those that were sent.
        #[serde(default)]
        uids: Vec<String>,
        #[serde(flatten)]
        options: WatchOptions,
        #[serde(flatten)]
        pause: Pause,
    },
}

#[derive(Deserialize)]
pub struct WatchOptions {
    heartbeat_seconds: Option<u64>,
    #[serde(default)]
    chunks: bool,
}

impl WatchOptions {
    /// Returns the request of a watch.
    pub fn request(&self, uid: i64) -> Result<WatchJobRequest> {
        let mut request = WatchJobRequest {
            uid,
            ..Default::default()
        };
        if let Some(seconds) = self.heartbeat_seconds {
            request.heartbeat_interval = Some(Duration::from_secs(seconds).try_into()?);
        }
        if self.chunks {
            request.set_content_format(ContentFormat::JsonChunks);
        }
        Ok(request)
    }
}

/// A pause of the program, during which it reads nothing.
#[derive(Deserialize)]
pub struct Pause {
    /// In lines.
    pub pause_after: Option<usize>,
    #[serde(default)]
    pub pause_seconds: u64,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct JobRequest {
    workspace_id: String,
    entity_id: i64,
    method_name: Option<String>,
    request_id: String,
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

fn one() -> usize {
    1
}

/// Reads an int64 in protobuf's JSON format, which is a string.
fn int64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(D::Error::custom)
}
