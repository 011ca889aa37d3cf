//! Memory that messages took comes back. The only test of its file: it looks at the memory of the whole process.

mod support;

use multigil::control::AnyQueue;
use multigil::object::{Message, Region};

use support::{limit, payload};

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// Every other message has a block of its own.
fn size(number: u64) -> usize {
    if number % 2 == 0 { 8 } else { 150 }
}

/// A million messages that nobody gets yet: they are all there in the end, and then their memory is the kernel's again.
#[test]
fn million_messages_come_and_go() {
    const COUNT: u64 = 1_000_000;
    let _limit = limit(120);
    let region = Region::new().unwrap();
    let me = region.register().unwrap();
    let queue = region.create_queue(me, 0).unwrap();
    let idle = region.statistics().memory;
    let before = resident();

    let mut message = Message::new(&region, me);
    for number in 0..COUNT {
        message.set_bytes(1, &payload(number, size(number))).unwrap();
        queue.put(&mut message, &region, me, None).unwrap();
    }
    assert_eq!(queue.len(), COUNT);
    assert!(region.statistics().memory.blocks >= COUNT / 2);
    assert!(resident() - before >= COUNT * 128);

    for expected in 0..COUNT {
        queue.get(&mut message, &region, me, None).unwrap();
        let mut bytes = vec![0; message.length()];
        message.read(0, &mut bytes);
        assert_eq!(bytes, payload(expected, size(expected)));
    }
    assert!(queue.is_empty());
    drop(message);

    // One ring is left, the largest, and what the region keeps warm.
    let memory = region.statistics().memory;
    assert!(memory.blocks <= idle.blocks + 1, "{memory:?}");
    let kept = memory.in_use + memory.retained;
    assert!(kept < 32 << 20, "{memory:?}");
    assert!(resident() < before + kept + (16 << 20), "{} bytes more than before", resident() - before);

    drop(queue);
    assert_eq!(region.statistics().memory.blocks, 0);
}
