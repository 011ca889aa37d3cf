//! Copies of a region's file: what is in there at some moment, and a region that is as it was then.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use multigil::error::RegionError;
use multigil::object::Region;

/// What is in a region's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Photograph {
    pub(crate) bytes: u64,
    /// The parts that are not all zero, with their places.
    pub(crate) parts: Vec<(u64, Vec<u8>)>,
}

impl Photograph {
    /// What is in the region's file now.
    pub(crate) fn of(region: &Region) -> Photograph {
        let file = File::from(region.file().try_clone_to_owned().unwrap());
        let mut parts = Vec::new();
        let mut place = 0;
        // SAFETY: no memory is passed.
        let seek = |from, whence| unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
        loop {
            let start = seek(place, libc::SEEK_DATA);
            if start < 0 {
                break;
            }
            place = seek(start, libc::SEEK_HOLE);
            let mut data = vec![0; (place - start) as usize];
            file.read_exact_at(&mut data, start as u64).unwrap();
            parts.push((start as u64, data));
        }
        Photograph { bytes: file.metadata().unwrap().len(), parts }
    }

    /// A region in which all is as it was then, and nobody is alive who took part.
    pub(crate) fn open(&self) -> Result<Region, RegionError> {
        self.open_changed(|_| {})
    }

    /// The same, with changes.
    pub(crate) fn open_changed(&self, change: impl FnOnce(&File)) -> Result<Region, RegionError> {
        // SAFETY: the name is a C string, and nobody else has the descriptor.
        let file = unsafe { File::from_raw_fd(libc::memfd_create(c"photograph".as_ptr(), libc::MFD_CLOEXEC)) };
        file.set_len(self.bytes).unwrap();
        self.parts.iter().for_each(|(start, data)| file.write_all_at(data, *start).unwrap());
        change(&file);
        Region::open(file.as_fd())
    }
}
