//! Where something ends: numbers of participants, memory, descriptors, a disk. All of it is an error that says so.

use std::ffi::CString;
use std::os::fd::AsRawFd;

use multigil::error::{OutOfMemory, PutError, RegionError};
use multigil::layout::ObjectId;

use super::*;

/// What a child says by its status.
const SKIPPED: i32 = 77;
const FAILED: i32 = 101;

/// Forks a child that does this and ends.
fn fork(book: &'static Book, act: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: the child only uses what it makes itself, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        std::panic::set_hook(Box::new(move |panic| book.fail(panic)));
        let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).unwrap_or(FAILED);
        // SAFETY: the harness of the tests is the parent's.
        unsafe { libc::_exit(status) };
    }
    child
}

fn wait_for(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: the kernel fills the live number.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

fn kill(child: libc::pid_t) {
    // SAFETY: the child is ours, and not waited for yet.
    assert_eq!(unsafe { libc::kill(child, libc::SIGKILL) }, 0);
}

/// Does this in a child, whose limits and mounts are its own; false if it says that it can't be done here.
fn apart(act: impl FnOnce() -> i32) -> bool {
    let book = Book::new();
    let status = wait_for(fork(book, act));
    assert!(libc::WIFEXITED(status), "it ended by signal {}", libc::WTERMSIG(status));
    let status = libc::WEXITSTATUS(status);
    assert!(status == 0 || status == SKIPPED, "{}", book.failure().unwrap_or_default());
    status == 0
}

/// Until `is_so`; a child that works is not waited for by anything else.
fn wait_until(is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < HANG);
        thread::sleep(Duration::from_micros(200));
    }
}

fn put(region: &Region, me: PeerId, queue: &Queue, number: u64, length: usize) -> Result<(), PutError> {
    let mut message = Message::new(region, me);
    message.allocate(1, length, &[])?;
    message.write(0, &support::payload(number, length));
    queue.put(&mut message, region, me, None)
}

fn get(region: &Region, me: PeerId, queue: &Queue) -> Option<Vec<u8>> {
    let mut message = Message::new(region, me);
    message.prepare(u64::MAX);
    queue.get(&mut message, region, me, None).ok()?;
    let mut bytes = vec![0; message.length()];
    message.read(0, &mut bytes);
    Some(bytes)
}

/// More come and die, one after the other, than there are numbers, and nobody puts right what they leave until somebody
/// needs a number.
#[test]
fn numbers_are_given_again() {
    const MANY: u64 = 5000;
    /// Each so many leaves something; what the others cost is what any death costs.
    const LEAVES: usize = 20;
    let _alone = alone();
    let _limit = limit(120);
    let region = Region::new().unwrap();
    let me = region.register().unwrap();
    let queue = region.create_queue(me, 0).unwrap();
    let before = region.statistics();
    let mut longest = Duration::ZERO;
    for number in 0..MANY {
        let other = Region::open(region.file()).unwrap();
        let began = Instant::now();
        let peer = other.register().expect("the dead have numbers enough");
        longest = longest.max(began.elapsed());
        if number % LEAVES as u64 == 0 {
            let handle = other.attach::<Queue>(queue.id(), peer).unwrap();
            put(&other, peer, &handle, number, 200).unwrap();
            core::mem::forget((handle, other.create_queue(peer, 0).unwrap()));
        }
    }
    let began = Instant::now();
    let some = || Some(region.recover_dead(me)).filter(|some| *some > 0);
    let dead: usize = core::iter::from_fn(some).sum();
    println!("{MANY} came and died, a number was waited for {longest:?} at most");
    println!("{dead} that were left then were put right in {:?}", began.elapsed());
    for number in (0..MANY).step_by(LEAVES) {
        assert_eq!(get(&region, me, &queue).unwrap(), support::payload(number, 200));
    }
    let after = region.statistics();
    assert_eq!((after.objects, after.peers), (before.objects, before.peers));
}

/// Three hundred processes at once, of which half are killed in their sleep.
#[test]
fn three_hundred_at_once() {
    const MANY: usize = 300;
    let _alone = alone();
    let _limit = limit(120);
    let (region, book) = (Region::new().unwrap(), Book::new());
    let me = region.register().unwrap();
    let [queue, wait] = [0, 1].map(|_| region.create_queue(me, 0).unwrap());
    let before = region.statistics();
    let ids: [ObjectId; 2] = [queue.id(), wait.id()];
    let ready = &book.counts.steps;
    let sleeper = |number: usize| {
        let region = Box::leak(Box::new(Region::open(region.file()).unwrap()));
        let me = region.register().unwrap();
        let [queue, wait] = ids.map(|id| region.attach::<Queue>(id, me).unwrap());
        (0..10).for_each(|_| put(region, me, &queue, number as u64, 200).unwrap());
        ready.fetch_add(1, Ordering::SeqCst);
        let mut message = Message::new(region, me);
        let ended = with_patience(region, me, |patience| wait.get(&mut message, region, me, Some(patience)));
        assert_eq!(ended, Err(multigil::error::GetError::ShutDown));
        drop((queue, wait, message));
        region.leave(me);
        0
    };
    let children: Vec<_> = (0..MANY).map(|number| fork(book, || sleeper(number))).collect();
    wait_until(|| ready.load(Ordering::SeqCst) == MANY as u64 || book.failure().is_some());
    assert_eq!(book.failure(), None);
    assert_eq!(region.statistics().peers, MANY as u32 + 1);
    let (killed, others) = children.split_at(MANY / 2);
    killed.iter().for_each(|child| kill(*child));
    killed.iter().for_each(|child| assert!(libc::WIFSIGNALED(wait_for(*child))));
    let began = Instant::now();
    region.recover_dead(me);
    wait_until(|| region.statistics().peers == (MANY - killed.len()) as u32 + 1);
    println!("{} that were killed were put right in {:?}", killed.len(), began.elapsed());
    wait.shut_down(false, &region, me);
    others.iter().for_each(|child| assert_eq!(wait_for(*child), 0, "{:?}", book.failure()));
    let mut counts = vec![0; MANY];
    while let Some(bytes) = get(&region, me, &queue) {
        let number = (0..MANY).find(|number| bytes == support::payload(*number as u64, 200)).expect("it is whole");
        counts[number] += 1;
    }
    assert!(counts.iter().all(|count| *count == 10), "{counts:?}");
    let after = region.statistics();
    assert_eq!((after.objects, after.peers), (before.objects, before.peers));
}

/// Somebody dies who has a gigabyte.
#[test]
fn a_large_victim() {
    const EACH: usize = 16 << 20;
    const COUNT: usize = 64;
    let _alone = alone();
    let _limit = limit(120);
    let free = std::fs::read_to_string("/proc/meminfo").unwrap();
    let free =
        free.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok());
    if free.is_none_or(|kib: u64| kib < 4 << 20) {
        println!("skipped: less than 4 GiB are free");
        return;
    }
    let (region, book) = (Region::new().unwrap(), Book::new());
    let me = region.register().unwrap();
    let before = region.statistics();
    let child = fork(book, || {
        let region = Box::leak(Box::new(Region::open(region.file()).unwrap()));
        let me = region.register().unwrap();
        let bytes = vec![1; EACH];
        let messages = (0..COUNT).map(|_| {
            let mut message = Message::new(region, me);
            message.set_bytes(1, &bytes).unwrap();
            core::mem::forget(message);
        });
        messages.for_each(drop);
        book.counts.steps.store(1, Ordering::SeqCst);
        loop {
            thread::park();
        }
    });
    wait_until(|| book.counts.steps.load(Ordering::SeqCst) == 1 || book.failure().is_some());
    assert_eq!(book.failure(), None);
    assert!(region.statistics().memory.in_use >= (EACH * COUNT) as u64);
    let began = Instant::now();
    kill(child);
    assert!(libc::WIFSIGNALED(wait_for(child)));
    let ended = began.elapsed();
    assert_eq!(region.recover_dead(me), 1);
    let recovered = began.elapsed();
    println!("killed with 1 GiB: gone after {ended:?}, put right after {recovered:?}");
    let after = region.statistics();
    assert_eq!((after.memory.in_use, after.memory.blocks), (before.memory.in_use, before.memory.blocks));
    assert!(recovered < Duration::from_secs(2), "{recovered:?}");
}

/// Whatever can't be had is said in numbers.
fn assert_clear(error: OutOfMemory, least: usize) {
    assert!(error.requested >= least as u64 && error.available < 1 << 40, "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&error.requested.to_string()) && text.contains("available"), "{text}");
}

/// Fills a queue until there is no memory; what was put is whole, and its memory can be had again.
fn fill(region: &Region, me: PeerId, length: usize, most: u64) {
    let queue = region.create_queue(me, 0).unwrap();
    let mut put_in_all = 0;
    for _ in 0..2 {
        let count = loop {
            assert!(put_in_all < most, "it never ends");
            match put(region, me, &queue, put_in_all, length) {
                Ok(()) => put_in_all += 1,
                Err(PutError::OutOfMemory(error)) => {
                    assert_clear(error, 1);
                    break queue.len();
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert!(count > 0);
        for number in put_in_all - count..put_in_all {
            assert_eq!(get(region, me, &queue).unwrap(), support::payload(number, length));
        }
        assert_eq!(queue.len(), 0);
    }
}

/// A named region on a small disk: when that is full, it is an error and no `SIGBUS`.
#[test]
fn a_full_disk() {
    let _alone = alone();
    let _limit = limit(60);
    let is_done = apart(|| {
        let mount = |what: &str, to: &str, kind: &str, flags, options: &str| {
            let [what, to, kind, options] = [what, to, kind, options].map(|text| CString::new(text).unwrap());
            // SAFETY: all are C strings.
            unsafe { libc::mount(what.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) == 0 }
        };
        // SAFETY: no memory is passed; nobody else has these mounts.
        let is_alone = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
        let is_mounted = is_alone
            && mount("none", "/", "", libc::MS_REC | libc::MS_PRIVATE, "")
            && mount("none", "/dev/shm", "tmpfs", 0, "size=8m");
        if !is_mounted {
            return SKIPPED;
        }
        {
            let region = Region::named("full").expect("there is room for an empty one");
            let me = region.register().unwrap();
            fill(&region, me, 100_000, 1000);
            fill(&region, me, 20, 10_000_000);
            let same = Region::open(region.file()).unwrap();
            fill(&same, same.register().unwrap(), 200_000, 1000);
            let error = region.create_memory(me, Format { meaning: 0, width: 1 }, 16 << 20).unwrap_err();
            assert_clear(error, 16 << 20);
        }
        // Nothing is left for a header.
        let full = vec![0; 16 << 20];
        assert!(std::fs::write("/dev/shm/other", &full).is_err());
        match Region::named("none").unwrap_err() {
            RegionError::OutOfMemory(error) => assert_clear(error, 4096),
            RegionError::System(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}"),
            error => panic!("{error}"),
        }
        assert_eq!(Region::names().unwrap(), [""; 0], "nothing half made is left");
        0
    });
    if !is_done {
        println!("skipped: no file system may be mounted here");
    }
}

fn set_limit(what: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the kernel reads the live structure.
    assert_eq!(unsafe { libc::setrlimit(what, &raw const limit) }, 0);
}

#[test]
fn no_descriptors() {
    let _alone = alone();
    let _limit = limit(60);
    let region = Region::new().unwrap();
    apart(|| {
        // The lowest that is free is none that it may have.
        let next = std::fs::File::open("/dev/null").unwrap();
        set_limit(libc::RLIMIT_NOFILE, next.as_raw_fd() as u64);
        drop(next);
        for refused in [Region::new(), Region::open(region.file()), Region::named("none")] {
            match refused.unwrap_err() {
                RegionError::System(error) => assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}"),
                error => panic!("{error}"),
            }
        }
        0
    });
}

#[test]
fn no_address_space() {
    let _alone = alone();
    let _limit = limit(60);
    apart(|| {
        let region = Region::new().unwrap();
        let me = region.register().unwrap();
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
        set_limit(libc::RLIMIT_AS, pages * 4096 + (200 << 20));
        fill(&region, me, 1 << 20, 1000);
        let error = region.create_memory(me, Format { meaning: 0, width: 1 }, 1 << 30).unwrap_err();
        assert_clear(error, 1 << 30);
        // What another process made is too large to be mapped here.
        set_limit(libc::RLIMIT_AS, 1 << 20);
        assert!(matches!(Region::new(), Err(RegionError::System(_) | RegionError::OutOfMemory(_))));
        0
    });
}

#[test]
fn no_large_files() {
    let _alone = alone();
    let _limit = limit(60);
    for bytes in [0, 4096, 1 << 20, 40 << 20] {
        apart(|| {
            set_limit(libc::RLIMIT_FSIZE, bytes);
            match Region::new() {
                Ok(region) => fill(&region, region.register().unwrap(), 100_000, 1000),
                Err(RegionError::OutOfMemory(error)) => assert_clear(error, bytes as usize),
                Err(error) => panic!("{error}"),
            }
            0
        });
    }
}
