//! A watcher of routes that resumes where its stream broke, and what it may rely on: after the first
//! `synced`, revisions that never fall, and each change once.

use std::collections::BTreeMap;

use config_service::store::{Change, Changed};
use proto::v1::{
    Route, WatchRoutesRequest, WatchRoutesResponse, route_service_client::RouteServiceClient,
    watch_routes_response::Change as Sent,
};
use tokio::sync::watch::Receiver;
use tonic::{Status, Streaming, transport::Channel};

use crate::faults::is_away;

/// Follows the routes, and what came after the first `synced`.
#[derive(Default)]
pub struct Watcher {
    pub routes: BTreeMap<String, Route>,
    /// The revision of the last `synced`.
    synced: Option<u64>,
    /// The last revision seen since the first.
    last: u64,
    /// Each change that came: its revision, the webhook, and the route unless it was deleted.
    pub came: Vec<(u64, String, Option<Route>)>,
    pub breaks: usize,
}

impl Watcher {
    /// Until it is told that it knows all up to `end`, which is not 0 when all is done.
    pub async fn follow(mut self, mut client: RouteServiceClient<Channel>, mut end: Receiver<u64>) -> Self {
        loop {
            let after_revision = self.synced.map_or(0, |_| self.last);
            if after_revision == 0 {
                self.routes.clear();
            }
            let broken = match client.watch_routes(WatchRoutesRequest { after_revision }).await {
                Err(status) => status,
                Ok(stream) => match self.read(stream.into_inner(), &mut end).await {
                    Err(status) => status,
                    Ok(()) => return self,
                },
            };
            assert!(is_away(&broken), "{broken:?}");
            self.breaks += 1;
        }
    }

    async fn read(
        &mut self,
        mut stream: Streaming<WatchRoutesResponse>,
        end: &mut Receiver<u64>,
    ) -> Result<(), Status> {
        while self.synced != Some(*end.borrow()) {
            tokio::select! {
                message = stream.message() => self.take(message?.expect("a stream has no end of its own")),
                Ok(()) = end.changed() => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, WatchRoutesResponse { revision, change }: WatchRoutesResponse) {
        let change = change.unwrap();
        if self.synced.is_some() {
            assert!(revision >= self.last, "{revision} after {}: {change:?}", self.last);
        }
        let (id, route) = match change {
            Sent::Put(route) => (route.webhook.as_ref().unwrap().id.clone(), Some(route)),
            Sent::DeletedWebhookId(id) => (id, None),
            Sent::Synced(_) => {
                (self.synced, self.last) = (Some(revision), revision);
                return;
            }
            other => panic!("{other:?}"),
        };
        if self.synced.is_some() {
            self.last = revision;
            self.came.push((revision, id.clone(), route.clone()));
        }
        match route {
            Some(route) => drop(self.routes.insert(id, route)),
            None => drop(self.routes.remove(&id)),
        }
    }

    /// What came is what the log has: each change once. Webhooks with their account's new key come again
    /// where the stream broke among them.
    pub fn check(&self, log: &[Change]) {
        let log: BTreeMap<_, _> = log.iter().map(|change| (change.revision, &change.of)).collect();
        let mut once = BTreeMap::new();
        for (revision, id, route) in &self.came {
            if let Some(Changed::Account(code)) = log.get(&(revision + 1)) {
                let webhook = route.as_ref().and_then(|route| route.webhook.as_ref()).unwrap();
                assert_eq!(*code, webhook.license_code);
                continue;
            }
            let expected = match route {
                Some(_) => Changed::Webhook(id.parse().unwrap()),
                None => Changed::Deleted(id.parse().unwrap()),
            };
            assert_eq!(log.get(revision), Some(&&expected), "{revision}");
            assert_eq!(once.insert(revision, id), None, "{revision} came again");
        }
    }
}
