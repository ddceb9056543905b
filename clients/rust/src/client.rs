//! The client: its connection, which all calls share, and its token.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::Request;
use tonic::transport::{self, Channel, ClientTlsConfig, Endpoint};

use crate::failure::Error;
use crate::pb::job_service_client::JobServiceClient;
use crate::rules::{Retry, after};
use crate::token::{BoxError, Login, LoginFunction, Token, TokenError, Tokens, bearer, boxed};

/// The start of the header by which the gateway's log names the client.
const USER_AGENT: &str = concat!("jobgateway-rust/", env!("CARGO_PKG_VERSION"));

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
    tokens: Tokens,
    max_message_size: Option<usize>,
}

#[derive(Clone)]
pub(crate) struct Connection {
    channel: Channel,
    /// The number of connections before this one.
    number: u64,
}

/// The credential and the connection of one call.
#[derive(Clone)]
pub(crate) struct Access {
    pub token: Token,
    pub connection: Connection,
    max_message_size: Option<usize>,
}

/// The wait before another attempt.
pub(crate) struct Pause {
    pub until: Instant,
    /// The connection that a new one replaces after the wait.
    replaced: Option<Connection>,
}

impl Access {
    pub fn stub(&self) -> JobServiceClient<Channel> {
        let stub = JobServiceClient::new(self.connection.channel.clone());
        match self.max_message_size {
            Some(size) => stub.max_decoding_message_size(size),
            None => stub,
        }
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

impl Pause {
    /// Creates the wait of a retry that begins now.
    pub fn new(retry: &Retry, used: Access) -> Self {
        Self {
            until: after(Instant::now(), retry.wait),
            replaced: retry.new_connection.then_some(used.connection),
        }
    }
}

type Adjust = Box<dyn FnOnce(Endpoint) -> Endpoint + Send + Sync>;

/// The options of a client.
pub struct ClientBuilder {
    uri: String,
    token: Option<String>,
    login: Option<LoginFunction>,
    tls: Option<ClientTlsConfig>,
    max_message_size: Option<usize>,
    adjust: Option<Adjust>,
}

// Without the token.
impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut builder = f.debug_struct("ClientBuilder");
        builder.field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// Sets a bearer token that never changes.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets a function that returns a bearer token, instead of `token`.
    ///
    /// The client calls it before the first call, and again whenever the gateway rejects the token, once for all calls that
    /// wait for it. It returns `None` if there is no (other) token. An error ends the call that began the login; the others
    /// log in again. If the same token is rejected again, that error is final.
    pub fn login<F, R, E>(mut self, login: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Option<String>, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.login = Some(boxed(login));
        self
    }

    /// Sets the TLS configuration of an `https` address, such as that of `tls_from_files`. Default: the CA
    /// certificates of the system, and no certificate of the client.
    pub fn tls(mut self, tls: ClientTlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the size of the largest message that the client receives, in bytes. Default: 4 MiB. Only `CONTENT_FORMAT_JSON`
    /// needs more, because in the other formats, the gateway sends a large result in chunks.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = Some(bytes);
        self
    }

    /// Sets a function that adjusts the endpoint of tonic.
    ///
    /// The endpoint has the address, the TLS configuration, a connect timeout of 10 s, and a keepalive of 20 s with a timeout of
    /// 10 s: all that the function does not change. The gateway closes a connection that pings more often than each 10 s. An
    /// `Endpoint::timeout` is ignored, because each call has its own limit, and a watch has none.
    pub fn endpoint<F>(mut self, adjust: F) -> Self
    where
        F: FnOnce(Endpoint) -> Endpoint + Send + Sync + 'static,
    {
        self.adjust = Some(Box::new(adjust));
        self
    }

    /// Returns a client that connects at its first call.
    pub fn build(self) -> Result<Client, BuildError> {
        let mut endpoint = Endpoint::from_shared(self.uri)
            .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
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
        if let Some(adjust) = self.adjust {
            // A shorter timeout would end each call that waits for its response, also of a watch.
            endpoint = adjust(endpoint).timeout(Duration::MAX);
        }
        let token = self.token.as_deref().map(bearer).transpose()?;
        Ok(Client {
            shared: Arc::new(Shared {
                endpoint,
                connection: Mutex::new(None),
                tokens: Tokens::new(token, self.login),
                max_message_size: self.max_message_size,
            }),
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut client = f.debug_struct("Client");
        client
            .field("uri", self.shared.endpoint.uri())
            .finish_non_exhaustive()
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
            max_message_size: None,
            adjust: None,
        }
    }

    /// Returns the token, after the first login, and the current connection. `login` keeps a login that is not awaited to its
    /// end.
    pub(crate) async fn access(&self, login: &mut Option<Login>) -> Result<Access, Error> {
        let token = self.shared.tokens.get(login).await?;
        Ok(Access {
            token,
            connection: self.connection(|_| false),
            max_message_size: self.shared.max_message_size,
        })
    }

    /// Returns whether there is a token for the next call, after a login if no other call has replaced the token used
    /// already.
    pub(crate) async fn renew(
        &self,
        used: &Access,
        login: &mut Option<Login>,
    ) -> Result<bool, Error> {
        let token = self.shared.tokens.renew(&used.token, login).await?;
        Ok(token.is_some())
    }

    /// Waits until the next call, and then replaces the connection used if the retry needs that.
    pub(crate) async fn wait_for(&self, pause: &Pause) {
        sleep_until(pause.until).await;
        if let Some(replaced) = &pause.replaced {
            // Another call may have replaced it already.
            self.connection(|current| current.number == replaced.number);
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
#[non_exhaustive]
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
    /// No header can carry the token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

#[cfg(test)]
mod tests;
