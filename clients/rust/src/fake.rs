//! A gateway for tests. Each test decides how its calls are answered, on the level of HTTP/2.

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{SendResponse, handshake};
use http::{HeaderMap, Request, Response};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::spawn;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsAcceptor;
use tonic::Status;

/// Polls a future once and drops it, again and again, until one is ready.
macro_rules! dropping {
    ($future:expr) => {
        tokio::time::timeout(std::time::Duration::from_secs(60), async {
            loop {
                if let Some(output) = futures_util::FutureExt::now_or_never($future) {
                    break output;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it ends")
    };
}
pub(crate) use dropping;

pub(crate) struct Gateway {
    pub uri: String,
    calls: UnboundedReceiver<Call>,
}

/// A call without a response.
pub(crate) struct Call {
    pub method: String,
    pub headers: HeaderMap,
    body: RecvStream,
    respond: SendResponse<Bytes>,
}

/// The responses to a call.
pub(crate) struct Responses(h2::SendStream<Bytes>);

impl Gateway {
    pub async fn start() -> Self {
        Self::listen("http", serve).await
    }

    pub async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::listen("https", move |connection, calls| {
            let accepted = acceptor.accept(connection);
            async move {
                if let Ok(connection) = accepted.await {
                    serve(connection, calls).await;
                }
            }
        })
        .await
    }

    async fn listen<S: Future<Output = ()> + Send + 'static>(
        scheme: &str,
        serve: impl Fn(TcpStream, UnboundedSender<Call>) -> S + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (sender, calls) = unbounded_channel();
        spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                spawn(serve(connection, sender.clone()));
            }
        });
        Self { uri, calls }
    }

    /// Waits for the next call.
    pub async fn call(&mut self) -> Call {
        self.calls.recv().await.unwrap()
    }

    /// Returns whether there was no further call.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }
}

async fn serve<C: AsyncRead + AsyncWrite + Unpin>(connection: C, calls: UnboundedSender<Call>) {
    let Ok(mut connection) = handshake(connection).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (parts, body): (_, RecvStream) = Request::into_parts(request);
        let call = Call {
            method: parts.uri.path().rsplit('/').next().unwrap().to_owned(),
            headers: parts.headers,
            body,
            respond,
        };
        let _ = calls.send(call);
    }
}

impl Call {
    /// Reads the first request.
    pub async fn request<M: Message + Default>(&mut self) -> M {
        let mut data = Vec::new();
        loop {
            if let Some(size) = data.get(1..5) {
                let size = u32::from_be_bytes(size.try_into().unwrap()) as usize;
                if let Some(message) = data.get(5..5 + size) {
                    return M::decode(message).unwrap();
                }
            }
            data.extend(self.body.data().await.unwrap().unwrap());
        }
    }

    /// Sends the headers of a response.
    pub fn respond(&mut self) -> Responses {
        let response = Response::builder().header("content-type", "application/grpc");
        let response = response.body(()).unwrap();
        Responses(self.respond.send_response(response, false).unwrap())
    }

    /// Responds with a status only.
    pub fn fail(&mut self, status: Status) {
        let response = status.into_http();
        self.respond.send_response(response, true).unwrap();
    }
}

impl Responses {
    pub fn send(&mut self, message: &impl Message) {
        let message = message.encode_to_vec();
        let mut frame = vec![0];
        frame.extend(u32::to_be_bytes(message.len() as u32));
        frame.extend(message);
        self.0.send_data(frame.into(), false).unwrap();
    }

    pub fn end(mut self, status: Status) {
        let trailers = status.into_http::<()>().into_parts().0.headers;
        self.0.send_trailers(trailers).unwrap();
    }
}
