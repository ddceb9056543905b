//! A connection to the gateway, with a credential.

use std::time::Duration;

use tokio::time::sleep;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue, errors::InvalidMetadataValue};
use tonic::transport::{Channel, Endpoint, Error};

use crate::pb::job_service_client::JobServiceClient;
use crate::rules::Resumption;

/// The channel for the calls, and the token that they carry.
pub struct Connection {
    endpoint: Endpoint,
    channel: Channel,
    bearer: MetadataValue<Ascii>,
    fresh_token: Box<dyn Fn() -> String + Send>,
}

impl Connection {
    /// Creates a connection that connects at its first call. `fresh_token` logs in again and returns the new token.
    pub fn new(
        uri: String,
        token: &str,
        fresh_token: impl Fn() -> String + Send + 'static,
    ) -> Result<Self, InvalidConnection> {
        let endpoint = Endpoint::from_shared(uri)?
            .connect_timeout(Duration::from_secs(10))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        Ok(Self {
            channel: endpoint.connect_lazy(),
            endpoint,
            bearer: bearer(token)?,
            fresh_token: Box::new(fresh_token),
        })
    }

    /// Returns a stub. A stub is cheap: create one for each call.
    pub fn stub(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    /// Returns a request that carries the token, and the uid of its job if it is about one. Proxies can route by it, so
    /// that all watches of a job share the polls of one replica.
    pub fn request<T>(&self, message: T, uid: Option<i64>) -> Request<T> {
        let mut request = Request::new(message);
        let bearer = self.bearer.clone();
        request.metadata_mut().insert("authorization", bearer);
        if let Some(uid) = uid {
            request.metadata_mut().insert("x-job-uid", uid.into());
        }
        request
    }

    /// Replaces the token with a fresh one. Returns whether it is another one.
    pub fn log_in(&mut self) -> Result<bool, InvalidMetadataValue> {
        let fresh = bearer(&(self.fresh_token)())?;
        let changed = fresh != self.bearer;
        self.bearer = fresh;
        Ok(changed)
    }

    /// Waits until the next call of a watch, and reconnects if it needs that.
    pub(crate) async fn prepare(&mut self, resumption: &Resumption) {
        sleep(resumption.wait).await;
        if resumption.new_connection {
            self.reconnect();
        }
    }

    /// Uses a new connection for all further calls. The old one closes after its last call.
    pub fn reconnect(&mut self) {
        self.channel = self.endpoint.connect_lazy();
    }
}

/// The address or the token of a connection is invalid.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConnection {
    #[error("address: not a valid URI; use http://HOST:PORT")]
    Address(#[from] Error),
    #[error("token: not a valid header value; use visible ASCII characters")]
    Token(#[from] InvalidMetadataValue),
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, InvalidMetadataValue> {
    let mut value = MetadataValue::try_from(format!("Bearer {token}"))?;
    value.set_sensitive(true); // keeps it out of logs
    Ok(value)
}
