//! The contract on the embedded store, and what it promises beyond: all is there when it is opened again.

use std::sync::Arc;

use common::clock::Time;
use config_service::store::{Change, Changed, Changes, Created, Store, StoreError, disk::DiskStore};

use super::{Backend, LOG, NOW, contract, record, request};

struct Embedded(tempfile::TempDir);

impl Embedded {
    fn open(&self, file: &str, now: Time) -> DiskStore {
        let db = common::disk::open(self.0.path(), file).unwrap();
        DiskStore::new(db, now, LOG).unwrap()
    }
}

#[async_trait::async_trait]
impl Backend for Embedded {
    async fn store(&self) -> Arc<dyn Store> {
        let count = std::fs::read_dir(self.0.path()).unwrap().count();
        Arc::new(self.open(&count.to_string(), NOW))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_keeps_the_contract() {
    contract(&Embedded(tempfile::tempdir().unwrap())).await;
}

#[tokio::test]
async fn the_embedded_store_keeps_all_when_it_is_opened_again() {
    let folder = Embedded(tempfile::tempdir().unwrap());
    let store = folder.open("db", NOW);
    let start = store.revision().await.unwrap();
    let made = store.create(record("~a", 1), request("r", b"x", NOW)).await.unwrap();
    let Created::New(made) = made else { panic!("{made:?}") };
    let account = store.account("~a", "key", NOW).await.unwrap();
    drop(store);

    let store = folder.open("db", Time(NOW.0 + 1_000_000));
    assert_eq!(store.revision().await, Ok(made.revision));
    assert_eq!(*store.changed().borrow(), made.revision);
    assert_eq!(store.list("~a", None, 10).await, Ok(vec![made.clone()]));
    assert_eq!(store.account("~a", "other", NOW).await, Ok(account));
    let repeat = store.create(record("~a", 2), request("r", b"x", NOW)).await;
    assert_eq!(repeat, Ok(Created::Repeat(made.clone())));
    let change = Change { revision: made.revision, of: Changed::Webhook(made.id().unwrap()) };
    assert_eq!(store.changes(start, 10).await, Ok(Changes::Page(vec![change])));
}

#[test]
fn a_store_that_has_just_been_opened_need_not_be_repaired_after_a_crash() {
    let folder = Embedded(tempfile::tempdir().unwrap());
    let _store = folder.open("db", NOW);
    let crashed = folder.0.path().join("crashed");
    std::fs::copy(folder.0.path().join("db"), &crashed).unwrap();
    let mut builder = redb::Builder::new();
    builder.set_repair_callback(|_| panic!("all of it is read"));
    builder.create(crashed).unwrap();
}

#[test]
fn a_layout_that_is_not_known_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let database = common::disk::open(folder.path(), "db").unwrap();
    let write = database.begin_write().unwrap();
    let state = redb::TableDefinition::<&str, u64>::new("state");
    write.open_table(state).unwrap().insert("version", 2).unwrap();
    write.commit().unwrap();
    let refused = DiskStore::new(database, NOW, LOG).err();
    assert!(matches!(refused, Some(StoreError::Damaged(_))), "{refused:?}");
}
