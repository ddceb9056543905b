//! A connection to the gateway, and the credential that goes over it.

use std::time::Duration;

use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue, errors::InvalidMetadataValue};
use tonic::transport::{Channel, Endpoint, Error};

use crate::pb::job_service_client::JobServiceClient;

/// Where calls go to, and as whom.
pub struct Connection {
    endpoint: Endpoint,
    channel: Channel,
    bearer: MetadataValue<Ascii>,
    fresh_token: Box<dyn Fn() -> String + Send>,
}

impl Connection {
    /// Connects at the first call; `fresh_token` logs in again.
    pub fn new(
        uri: String,
        token: &str,
        fresh_token: impl Fn() -> String + Send + 'static,
    ) -> Result<Self, NotConnected> {
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

    /// The calls. It is cheap to make one for each.
    pub fn stub(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    /// A request that bears the token.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let bearer = self.bearer.clone();
        request.metadata_mut().insert("authorization", bearer);
        request
    }

    /// Takes a fresh token.
    pub fn log_in(&mut self) -> Result<(), InvalidMetadataValue> {
        self.bearer = bearer(&(self.fresh_token)())?;
        Ok(())
    }

    /// Goes on over a new connection. The old one is closed once its last call is over.
    pub fn renew(&mut self) {
        self.channel = self.endpoint.connect_lazy();
    }
}

/// Why there is no connection to be had with an address and a token.
#[derive(Debug, thiserror::Error)]
pub enum NotConnected {
    #[error("the address is none")]
    Address(#[from] Error),
    #[error("the token is none")]
    Token(#[from] InvalidMetadataValue),
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, InvalidMetadataValue> {
    let mut value = MetadataValue::try_from(format!("Bearer {token}"))?;
    value.set_sensitive(true); // it shows in no log
    Ok(value)
}
