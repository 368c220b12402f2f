//! The embedded store's file: opens it, says in words why it cannot be opened, and tells how much room
//! is left. One process at a time has a file open; the file and its folders are its owner's alone.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use redb::{Database, DatabaseError, StorageError, backends::FileBackend};

/// What redb may keep of the file in memory, in bytes. Little: the system keeps it too.
const CACHE: usize = 4 << 20;

/// The file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{} is in use by another process: one process at a time can work on it", .0.display())]
    InUse(PathBuf),
    #[error("no permission for {}", .0.display())]
    NoPermission(PathBuf),
    #[error("{} is damaged, or not a store of hookline: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Other { path: PathBuf, reason: String },
}

/// Opens `file` in `folder`, and makes both when they are not there yet.
pub fn open(folder: &Path, file: &str) -> Result<Database, DiskError> {
    let file_backend = open_plain(folder, file)?;
    redb::Builder::new()
        .set_cache_size(CACHE)
        .create_with_backend(file_backend)
        .map_err(|error| failure(folder.join(file), error))
}

/// The same of a file that is no store by itself. Nobody is kept from it but by the store beside it.
pub fn open_plain(folder: &Path, file: &str) -> Result<FileBackend, DiskError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| io_error(folder, error))?;
    let path = folder.join(file);
    let opened = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| io_error(&path, error))?;
    // So that a file that was made now is found after a loss of power.
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io_error(folder, error))?;
    FileBackend::new(opened).map_err(|error| failure(path, error))
}

/// Bytes that can still be written to the file system that `folder` is on.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(folder)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

fn failure(path: PathBuf, error: DatabaseError) -> DiskError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => DiskError::InUse(path),
        DatabaseError::Storage(StorageError::Io(source)) if source.kind() == io::ErrorKind::InvalidData => {
            DiskError::Damaged { path, reason: source.to_string() }
        }
        DatabaseError::Storage(StorageError::Io(source)) => io_error(&path, source),
        DatabaseError::Storage(StorageError::Corrupted(reason)) => DiskError::Damaged { path, reason },
        other => DiskError::Other { path, reason: other.to_string() },
    }
}

fn io_error(path: &Path, source: io::Error) -> DiskError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => DiskError::NoPermission(path),
        _ => DiskError::Io { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_store_is_made_kept_and_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        drop(open(&inner, "x.redb").unwrap());
        drop(open(&inner, "x.redb").unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        assert_eq!(mode(&inner.join("x.redb")), 0o600);
        assert!(free_bytes(&inner).unwrap() > 0);
    }

    #[test]
    fn what_hinders_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let _open = open(folder.path(), "held.redb").unwrap();
        let error = open(folder.path(), "held.redb").unwrap_err();
        assert!(matches!(error, DiskError::InUse(_)), "{error:?}");
        assert!(error.to_string().contains("in use by another process"), "{error}");

        fs::write(folder.path().join("text.redb"), "no store ".repeat(10_000)).unwrap();
        let error = open(folder.path(), "text.redb").unwrap_err();
        assert!(matches!(error, DiskError::Damaged { .. }), "{error:?}");

        let error = open(&folder.path().join("text.redb"), "x").unwrap_err();
        assert!(matches!(error, DiskError::Io { .. }), "{error:?}");
    }
}
