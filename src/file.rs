//! The file that a region lies in: made, found by its name, proven to be ours, locked byte by byte.
//!
//! * An anonymous one is a memfd, sealed so that nobody can shrink it: whoever maps it keeps what is mapped. Children
//!   get it as a descriptor, others by `/proc/<pid>/fd`.
//! * A named one is a file of mode 0600 in a directory of mode 0700 under `/dev/shm`. It gets its name when it is
//!   complete (`linkat`), so nobody ever finds half of one.
//!
//! Files are sparse and as large as a region can ever become; memory is taken as the region grows ([`RegionFile::commit`]).
//!
//! Who is alive is asked of the kernel: each participant has a lock on the byte of its number, which belongs to the
//! open file description and so is gone exactly when the process is, however that ended. (A lock of the older kind
//! goes when any descriptor of the file is closed; a process's id can be another's by now; a time limit is wrong
//! for whoever is only stopped.) A shared lock on byte 0 says that somebody uses the file.
//!
//! `unsafe` here: system calls, whose arguments are live local values.
#![expect(unsafe_code, reason = "system calls that the standard library lacks")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::error::RegionError;
use crate::layout::PeerId;

/// Bytes of every region's file, of which only those count that were written: 1 TiB.
const FILE_BYTES: u64 = 1 << 40;

/// The byte that every process has a shared lock on that uses the file.
const USED: u64 = 0;

/// The file of a region, opened by this process for itself.
#[derive(Debug)]
pub(crate) struct RegionFile {
    file: File,
    /// Of a file with a name: that, and the directory.
    named: Option<Named>,
    /// Its memory is taken before it is touched; see [`RegionFile::commit`].
    must_commit: bool,
}

#[derive(Debug)]
struct Named {
    directory: OwnedFd,
    name: CString,
}

/// How a byte is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Shared,
    Exclusive,
    Nothing,
}

impl RegionFile {
    fn over(file: File, named: Option<Named>) -> RegionFile {
        // Only a memfd is sealed so. Whoever opened a file by a descriptor does not know of its name.
        // SAFETY: no memory is passed.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        let is_memfd = seals >= 0 && seals & libc::F_SEAL_SHRINK != 0;
        RegionFile { file, named, must_commit: !is_memfd || is_strict() }
    }

    /// A file without a name.
    pub(crate) fn anonymous() -> Result<RegionFile, RegionError> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a C string.
        let file = unsafe { owned(libc::memfd_create(c"multigil".as_ptr(), flags)) }.map(File::from)?;
        file.set_len(size_limit())?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: no memory is passed.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        let file = RegionFile::over(file, None);
        file.lock(USED, Hold::Shared)?;
        Ok(file)
    }

    /// The file of a descriptor, which may be another process's. Locks belong to how it was opened, so it is opened anew.
    pub(crate) fn reopen(descriptor: BorrowedFd<'_>) -> Result<RegionFile, RegionError> {
        Self::open_path(&PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd())))
    }

    /// The same, opened once more: for a child. It may be another user's by now, if the program has become another one.
    pub(crate) fn again(&self) -> Result<RegionFile, RegionError> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let file = RegionFile::over(File::options().read(true).write(true).open(path)?, None);
        file.lock(USED, Hold::Shared)?;
        Ok(file)
    }

    /// The file that another process has open under that descriptor.
    pub(crate) fn of_process(process: u32, descriptor: i32) -> Result<RegionFile, RegionError> {
        Self::open_path(&PathBuf::from(format!("/proc/{process}/fd/{descriptor}")))
    }

    fn open_path(path: &std::path::Path) -> Result<RegionFile, RegionError> {
        // Opening a device can do anything, and the descriptor may be another process's by now.
        if !std::fs::metadata(path)?.is_file() {
            return Err(RegionError::NoRegion("it is no file"));
        }
        let file = File::options().read(true).write(true).open(path)?;
        let region = RegionFile::over(file, None);
        region.is_ours()?;
        region.lock(USED, Hold::Shared)?;
        Ok(region)
    }

    /// A file that will have a name once [`RegionFile::publish`] gives it.
    pub(crate) fn named(name: &str) -> Result<RegionFile, RegionError> {
        let named = Named { directory: directory()?, name: file_name(name)? };
        let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
        let here = c".".as_ptr();
        // SAFETY: the path is a C string.
        let file = unsafe { owned(libc::openat(named.directory.as_raw_fd(), here, flags, 0o600)) }.map(File::from)?;
        // SAFETY: no memory is passed. Whatever the umask says.
        check(unsafe { libc::fchmod(file.as_raw_fd(), 0o600) })?;
        file.set_len(size_limit())?;
        let file = RegionFile::over(file, Some(named));
        file.lock(USED, Hold::Shared)?;
        Ok(file)
    }

    /// Gives the file its name; false if another one has it.
    pub(crate) fn publish(&self) -> Result<bool, RegionError> {
        let Some(named) = &self.named else { return Ok(true) };
        let path = CString::new(format!("/proc/self/fd/{}", self.file.as_raw_fd())).expect("digits only");
        // SAFETY: both are C strings.
        let status = unsafe {
            let directory = named.directory.as_raw_fd();
            libc::linkat(libc::AT_FDCWD, path.as_ptr(), directory, named.name.as_ptr(), libc::AT_SYMLINK_FOLLOW)
        };
        match check(status) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The file of that name, if somebody uses it. One whose users have all died is removed.
    pub(crate) fn find(name: &str) -> Result<Option<RegionFile>, RegionError> {
        let named = Named { directory: directory()?, name: file_name(name)? };
        loop {
            let flags = libc::O_RDWR | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
            // SAFETY: the name is a C string.
            let opened = unsafe { owned(libc::openat(named.directory.as_raw_fd(), named.name.as_ptr(), flags)) };
            let mut file = match opened {
                Ok(file) => RegionFile::over(File::from(file), None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            file.is_ours()?;
            if file.try_lock(USED, Hold::Exclusive)? {
                // Nobody uses it, and nobody begins to while we have the lock: they find its name gone.
                named.remove(&file.file)?;
                continue;
            }
            if file.try_lock(USED, Hold::Shared)? && file.file.metadata()?.nlink() != 0 {
                file.named = Some(named);
                return Ok(Some(file));
            }
            // Somebody is just removing it.
            std::thread::yield_now();
        }
    }

    /// Whether the file is what a region of this user is in, as far as the kernel can tell.
    fn is_ours(&self) -> Result<(), RegionError> {
        let about = self.file.metadata()?;
        // SAFETY: no preconditions.
        let me = unsafe { libc::geteuid() };
        if about.uid() != me {
            return Err(RegionError::Foreign(about.uid()));
        }
        // The mode of a file without a name says nothing: who has no descriptor of it does not get at it.
        let is_safe = about.nlink() == 0 || about.mode() & 0o077 == 0;
        if !about.is_file() || !is_safe || about.nlink() > 1 {
            return Err(RegionError::NoRegion("it is not a file of mode 0600 with one name"));
        }
        Ok(())
    }

    /// The same file under the same descriptor, but opened by another one: the locks are its ones from now on.
    pub(crate) fn take_over(&self, other: RegionFile) -> io::Result<()> {
        // SAFETY: no memory is passed. Both are files of ours.
        check(unsafe { libc::dup3(other.file.as_raw_fd(), self.file.as_raw_fd(), libc::O_CLOEXEC) })
    }

    /// The last user takes the name away. The file can't be opened any more then.
    pub(crate) fn retire(&self) {
        if let Some(named) = &self.named
            && self.try_lock(USED, Hold::Exclusive).unwrap_or(false)
        {
            let _ = named.remove(&self.file); // whoever looks for it next does it otherwise
        }
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> Result<u64, RegionError> {
        Ok(self.file.metadata()?.len())
    }

    /// Its name.
    pub(crate) fn name(&self) -> Option<String> {
        self.named.as_ref().map(|named| named.name.to_string_lossy().into_owned())
    }

    /// Sees to it that these bytes have memory, so that touching them is never a SIGBUS.
    ///
    /// A named file's come from a file system with a limit. A memfd's have none but the machine's, which ends programs as
    /// it does for any other memory; unless it is set never to promise more than it has.
    pub(crate) fn commit(&self, offset: u64, bytes: u64) -> io::Result<()> {
        if !self.must_commit {
            return Ok(());
        }
        loop {
            // SAFETY: no memory is passed.
            let status = unsafe { libc::fallocate(self.file.as_raw_fd(), 0, offset as i64, bytes as i64) };
            match check(status) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Whether memory that was given back has to be taken again by [`RegionFile::commit`].
    pub(crate) fn must_commit(&self) -> bool {
        self.must_commit
    }

    /// Says that a participant is alive, until [`RegionFile::forget`] or the end of this process; false if another
    /// process has that number.
    pub(crate) fn claim(&self, peer: PeerId) -> io::Result<bool> {
        self.try_lock(u64::from(peer.get()), Hold::Exclusive)
    }

    /// The end of [`RegionFile::claim`].
    pub(crate) fn forget(&self, peer: PeerId) {
        let _ = self.lock(u64::from(peer.get()), Hold::Nothing); // taking a lock back does not fail
    }

    /// Whether a process other than this one has that participant, alive.
    pub(crate) fn is_claimed_elsewhere(&self, peer: PeerId) -> bool {
        let mut lock = flock(u64::from(peer.get()), Hold::Exclusive);
        // SAFETY: the kernel fills the live structure.
        let status = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
        status != 0 || lock.l_type != libc::F_UNLCK as libc::c_short // in doubt it lives
    }

    fn try_lock(&self, byte: u64, hold: Hold) -> io::Result<bool> {
        match self.lock(byte, hold) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn lock(&self, byte: u64, hold: Hold) -> io::Result<()> {
        let lock = flock(byte, hold);
        // SAFETY: the kernel reads the live structure.
        check(unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) })
    }
}

impl AsFd for RegionFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for RegionFile {
    /// The last user takes the name away.
    fn drop(&mut self) {
        self.retire();
    }
}

impl Named {
    /// Takes the name away if it is this file's.
    fn remove(&self, file: &File) -> io::Result<()> {
        let mut about = core::mem::MaybeUninit::<libc::stat>::uninit();
        let (directory, name) = (self.directory.as_raw_fd(), self.name.as_ptr());
        // SAFETY: the name is a C string, and the kernel fills the structure.
        let status = unsafe { libc::fstatat(directory, name, about.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
        match check(status) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        // SAFETY: the call was successful.
        let named = unsafe { about.assume_init() };
        let ours = file.metadata()?;
        if (named.st_dev, named.st_ino) != (ours.dev(), ours.ino()) {
            return Ok(());
        }
        // SAFETY: the name is a C string.
        match check(unsafe { libc::unlinkat(directory, name, 0) }) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// The names that this user's files have, whether or not anybody uses them.
pub(crate) fn names() -> Result<Vec<String>, RegionError> {
    let directory = directory()?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// The directory of this user's named regions.
fn directory() -> Result<OwnedFd, RegionError> {
    // SAFETY: no preconditions.
    let me = unsafe { libc::geteuid() };
    let path = CString::new(format!("/dev/shm/multigil-{me}")).expect("no NUL in it");
    // SAFETY: the path is a C string.
    match check(unsafe { libc::mkdir(path.as_ptr(), 0o700) }) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: as above.
    let directory = unsafe { owned(libc::open(path.as_ptr(), flags)) }?;
    let about = File::from(directory.try_clone()?).metadata()?;
    if about.uid() != me {
        return Err(RegionError::Foreign(about.uid()));
    }
    if about.mode() & 0o077 != 0 {
        return Err(RegionError::NoRegion("its directory can be written to by others"));
    }
    Ok(directory)
}

/// A name as a file's.
fn file_name(name: &str) -> Result<CString, RegionError> {
    let is_good = !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && !name.contains('/');
    let refused = RegionError::NoRegion("a name has 1 to 200 bytes, no '/', no NUL, and no '.' at its start");
    if is_good { CString::new(name).map_err(|_| refused) } else { Err(refused) }
}

/// Bytes that a new file gets: what a region may grow to, or what this process may make.
fn size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the live structure.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) } == 0;
    if known { FILE_BYTES.min(limit.rlim_cur) } else { FILE_BYTES }
}

/// Whether the kernel promises no more memory than there is, so that a page of a file may be refused when it is touched.
fn is_strict() -> bool {
    static STRICT: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *STRICT
        .get_or_init(|| std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|text| text.trim() == "2"))
}

fn flock(byte: u64, hold: Hold) -> libc::flock {
    let kind = match hold {
        Hold::Shared => libc::F_RDLCK,
        Hold::Exclusive => libc::F_WRLCK,
        Hold::Nothing => libc::F_UNLCK,
    };
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as i64,
        l_len: 1,
        l_pid: 0,
    }
}

/// What a call that failed says in `errno`.
fn check(status: libc::c_int) -> io::Result<()> {
    if status == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The descriptor that a call has just given.
///
/// # Safety
/// Nobody else owns it.
unsafe fn owned(descriptor: libc::c_int) -> io::Result<OwnedFd> {
    check(descriptor)?;
    // SAFETY: as the caller says.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
