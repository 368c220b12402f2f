//! The embedded store's file: opens it, says in words why it cannot be opened, and tells how much room
//! is left. One process at a time has a file open; the file and its folders are its owner's alone.

use std::{
    fs, io, iter,
    ops::Bound,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use redb::{Database, DatabaseError, StorageBackend, StorageError, backends::FileBackend};

/// What redb may keep of the file in memory, in bytes. Little: the system keeps it too.
const CACHE: usize = 4 << 20;

/// redb's header is in the file's first page, and begins with a number of so many bytes.
const HEADER: usize = 4096;
const NUMBER: usize = 9;
/// redb begins with a file that is no longer than this.
const NEW: u64 = 128 << 10;

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

/// Opens `file` in `folder`, and makes both when they are not there yet, or were begun and left.
pub fn open(folder: &Path, file: &str) -> Result<Database, DiskError> {
    match open_as_it_is(folder, file) {
        Err(DiskError::Damaged { .. }) => {
            empty_unfinished(folder, file)?;
            open_as_it_is(folder, file)
        }
        opened => opened,
    }
}

fn open_as_it_is(folder: &Path, file: &str) -> Result<Database, DiskError> {
    let file_backend = open_plain(folder, file)?;
    redb::Builder::new()
        .set_cache_size(CACHE)
        .create_with_backend(file_backend)
        .map_err(|error| failure(folder.join(file), error))
}

/// Empties a file that was never completely made. Whoever starts at the same time may be making it: that is
/// looked at, and done, under the lock of those who have it open.
fn empty_unfinished(folder: &Path, file: &str) -> Result<(), DiskError> {
    let path = folder.join(file);
    let failed = |error| io_error(&path, error);
    let file = open_plain(folder, file)?;
    let is_ours = file.try_lock_range(Bound::Unbounded, Bound::Unbounded);
    if !is_ours.map_err(|error| failed(error.into()))? {
        return Err(DiskError::InUse(path));
    }
    if is_unfinished(&file).map_err(failed)? {
        tracing::warn!(path = %path.display(), "the file was never completely made, and is made anew");
        file.set_len(0).map_err(failed)?;
    }
    file.close().map_err(failed)
}

/// Whether a file's making was broken off, by a kill or a full disk. redb gives it its length, writes the
/// header without its number, and adds that once these are on the disk: what has no number has never held
/// anything. Unless damage took it away. But whatever was once committed is in pages beyond the header's,
/// of which none is all zeros. So a file is given up only when there is nothing in it to lose: without a
/// number, with zeros alone beyond the header, and no longer than a new one.
fn is_unfinished(file: &FileBackend) -> io::Result<bool> {
    let len = file.len()?;
    if len > NEW {
        return Ok(false);
    }
    let mut bytes = vec![0; len as usize];
    file.read(0, &mut bytes)?;
    let mut rest = bytes.iter().take(NUMBER).chain(bytes.iter().skip(HEADER));
    Ok(rest.all(|&byte| byte == 0))
}

/// The same of a file that is no store by itself. Nobody is kept from it but by the store beside it.
pub fn open_plain(folder: &Path, file: &str) -> Result<FileBackend, DiskError> {
    let changing = changing(folder);
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
    // So that what was made now is found after a loss of power.
    for folder in changing {
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| io_error(folder, error))?;
    }
    FileBackend::new(opened).map_err(|error| failure(path, error))
}

/// The folders that get a new entry when a file in `folder` is made: that one, and for each that is not there
/// yet the one above it.
fn changing(folder: &Path) -> Vec<&Path> {
    let is_here = |folder: &Path| folder.as_os_str().is_empty();
    let missing = folder.ancestors().take_while(|folder| !is_here(folder) && !folder.exists());
    let above = missing.filter_map(Path::parent);
    let above = above.map(|folder| if is_here(folder) { Path::new(".") } else { folder });
    iter::once(folder).chain(above).collect()
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
mod tests;
