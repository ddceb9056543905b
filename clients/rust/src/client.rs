//! The client: its connection, which all calls share, and its token.

use std::error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue, errors::InvalidMetadataValue};
use tonic::transport::{self, Channel, ClientTlsConfig, Endpoint};

use crate::failure::Error;
use crate::pb::job_service_client::JobServiceClient;
use crate::rules::Retry;

type BoxError = Box<dyn error::Error + Send + Sync>;
type Token = Option<MetadataValue<Ascii>>;
type LoggedIn = Pin<Box<dyn Future<Output = Result<Option<String>, BoxError>> + Send>>;
type Login = Box<dyn Fn() -> LoggedIn + Send + Sync>;

/// A client of a gateway. Clones share one connection and one token, so one client serves many tasks.
///
/// A broken connection is replaced once for all calls. Calls in flight continue on the old one, which closes after the last
/// of them. Dropping the last clone, and the watches, closes the connection.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Endpoint,
    /// `None` before the first call.
    connection: Mutex<Option<Connection>>,
    login: Option<Login>,
    /// `None` before the first login. Locked during a login, so that concurrent calls share it.
    token: tokio::sync::Mutex<Option<Token>>,
}

#[derive(Clone)]
pub(crate) struct Connection {
    channel: Channel,
    /// The number of connections before this one.
    number: u64,
}

/// The credential and the connection of one call.
pub(crate) struct Access {
    pub token: Token,
    pub connection: Connection,
}

impl Access {
    pub fn stub(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.connection.channel.clone())
    }

    /// Returns a request that carries the token, and the uid of its job if it is about one. Proxies can route by it, so
    /// that all watches of a job share the polls of one replica.
    pub fn request<T>(&self, message: T, uid: Option<i64>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(bearer) = &self.token {
            request
                .metadata_mut()
                .insert("authorization", bearer.clone());
        }
        if let Some(uid) = uid {
            request.metadata_mut().insert("x-job-uid", uid.into());
        }
        request
    }
}

/// The options of a client.
pub struct ClientBuilder {
    uri: String,
    token: Option<String>,
    login: Option<Login>,
    tls: Option<ClientTlsConfig>,
}

impl ClientBuilder {
    /// Sets a bearer token that never changes.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets a function that returns a bearer token, instead of `token`.
    ///
    /// The client calls it before the first call, and again whenever the gateway rejects the token, once for all calls. It
    /// returns `None` if there is no (other) token.
    pub fn login<F, R, E>(mut self, login: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Option<String>, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.login = Some(Box::new(move || {
            let token = login();
            Box::pin(async { token.await.map_err(Into::into) })
        }));
        self
    }

    /// Sets the TLS configuration of an `https` address, such as that of `tls_from_files`. Default: the authorities of the
    /// system, and no certificate of the client.
    pub fn tls(mut self, tls: ClientTlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Returns a client that connects at its first call.
    pub fn build(self) -> Result<Client, BuildError> {
        let mut endpoint = Endpoint::from_shared(self.uri)
            .map_err(|_| BuildError::Address)?
            .connect_timeout(Duration::from_secs(10))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        match (endpoint.uri().scheme_str(), self.tls) {
            (Some("https"), tls) => {
                let tls = tls.unwrap_or_else(|| ClientTlsConfig::new().with_native_roots());
                endpoint = endpoint.tls_config(tls)?;
            }
            (Some("http"), None) => {}
            // tonic would connect, and send the token in plaintext.
            (Some("http"), Some(_)) => return Err(BuildError::Plaintext),
            _ => return Err(BuildError::Address),
        }
        let token = self.token.as_deref().map(bearer).transpose()?;
        Ok(Client {
            shared: Arc::new(Shared {
                endpoint,
                connection: Mutex::new(None),
                token: tokio::sync::Mutex::new(self.login.is_none().then_some(token)),
                login: self.login,
            }),
        })
    }
}

impl Client {
    /// Returns a client for an address such as `http://127.0.0.1:50051`, with a bearer token that never changes.
    pub fn new(uri: impl Into<String>, token: impl Into<String>) -> Result<Self, BuildError> {
        Self::builder(uri).token(token).build()
    }

    /// Returns the options of a client, which has no token.
    pub fn builder(uri: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            uri: uri.into(),
            token: None,
            login: None,
            tls: None,
        }
    }

    /// Returns the token, after the first login, and the current connection.
    pub(crate) async fn access(&self) -> Result<Access, Error> {
        let mut current = self.shared.token.lock().await;
        let token = match &*current {
            Some(token) => token.clone(),
            None => current.insert(self.log_in().await?).clone(),
        };
        let connection = self.connection(|_| false);
        Ok(Access { token, connection })
    }

    /// Logs in, unless another call has replaced the token used already. Returns the token for the next call, or `None` if
    /// there is no login, or if it returns none.
    pub(crate) async fn renew(&self, used: &Token) -> Result<Token, Error> {
        let mut current = self.shared.token.lock().await;
        if let Some(token) = &*current
            && token != used
        {
            return Ok(token.clone());
        }
        let fresh = self.log_in().await?;
        if fresh.is_some() {
            *current = Some(fresh.clone());
        }
        Ok(fresh)
    }

    async fn log_in(&self) -> Result<Token, Error> {
        let Some(login) = &self.shared.login else {
            return Ok(None);
        };
        let token = login().await.map_err(Error::Login)?;
        let bearer = token.as_deref().map(bearer).transpose();
        bearer.map_err(|error| Error::Login(error.into()))
    }

    /// Waits until the next call, and replaces the connection used if the retry needs that.
    pub(crate) async fn prepare(&self, retry: &Retry, used: &Connection) {
        sleep(retry.wait).await;
        if retry.new_connection {
            // Another call may have replaced it already.
            self.connection(|current| current.number == used.number);
        }
    }

    fn connection(&self, replace: impl Fn(&Connection) -> bool) -> Connection {
        let current = self.shared.connection.lock();
        let mut current = current.unwrap_or_else(PoisonError::into_inner);
        let number = match &*current {
            None => 0,
            Some(connection) if replace(connection) => connection.number + 1,
            Some(connection) => return connection.clone(),
        };
        let channel = self.shared.endpoint.connect_lazy();
        current.insert(Connection { channel, number }).clone()
    }
}

/// An option of a client is invalid.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address is not a URI with a scheme and a host.
    #[error("address: use http://HOST:PORT or https://HOST:PORT")]
    Address,
    /// There is a TLS configuration, but the address begins with `http`.
    #[error("address: with TLS, use https://HOST:PORT")]
    Plaintext,
    /// The TLS configuration is invalid.
    #[error("TLS: a certificate or a key is invalid, or does not fit")]
    Tls(#[from] transport::Error),
    /// The token is not a valid header value.
    #[error("token: not a valid header value; use visible ASCII characters")]
    Token(#[from] InvalidMetadataValue),
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, InvalidMetadataValue> {
    let mut value = MetadataValue::try_from(format!("Bearer {token}"))?;
    value.set_sensitive(true); // keeps it out of logs
    Ok(value)
}

#[cfg(test)]
mod tests;
