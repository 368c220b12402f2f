//! A receiver of webhooks: answers 200 to every request and hands it on.

use std::{convert::Infallible, net::SocketAddr};

use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio::{net::TcpListener, sync::mpsc};

/// A request as it came in.
#[derive(Debug)]
pub struct Received {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Listens on a free port of loopback for as long as requests are taken from the channel.
pub async fn start() -> std::io::Result<(SocketAddr, mpsc::UnboundedReceiver<Received>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let Ok((stream, _)) = stream else { continue };
            let sender = sender.clone();
            tokio::spawn(async move {
                let serve = service_fn(|request| answer(request, sender.clone()));
                // A connection that breaks shows in what was not delivered.
                let _ =
                    Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), serve).await;
            });
        }
    });
    Ok((address, receiver))
}

async fn answer(
    request: Request<Incoming>,
    sender: mpsc::UnboundedSender<Received>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut answer = Response::new(Empty::new());
    match body.collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            // Nobody listens any more at the very end.
            let _ = sender.send(Received { method: head.method, uri: head.uri, headers: head.headers, body });
        }
        Err(_) => *answer.status_mut() = http::StatusCode::BAD_REQUEST,
    }
    Ok(answer)
}
