use std::borrow::Cow;

use safetensors::Dtype;

use super::*;

struct Plain {
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl View for Plain {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        self.data.as_slice().into()
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

fn tensor(fill: u8) -> Plain {
    Plain { shape: vec![2, 3], data: vec![fill; 24] }
}

fn state(step: u64) -> State {
    let mut noise = NoiseScale::default();
    noise.add((std::f64::consts::PI, 3.0), (1.0 / 3.0, 7.0)); // what no short decimal is
    State {
        format: FORMAT.into(),
        step,
        next_sample: step * 8,
        tokens: step * 1024,
        seconds: 1.25,
        skipped_updates: 0,
        noise: Some(noise),
        loss_scale: Some([65_536.0, 3.0]),
        mix: None,
        plan: "p".into(),
        data: "d".into(),
        files: BTreeMap::new(),
        checksum: String::new(),
    }
}

/// The step whose optimizer states are compressed.
const COMPRESSED: u64 = 5;

fn save(folder: &Path, step: u64, keep: u64) -> Checkpoint {
    let fill = step as u8;
    let model = vec![("w".to_owned(), tensor(fill))];
    let optimizer = vec![("w.m".to_owned(), tensor(fill + 100)), ("w.v".to_owned(), tensor(fill + 101))];
    let texts = [CONFIG_FILE, PLAN_FILE, DATA_FILE].map(|file| (file, "{}\n".to_owned()));
    let tensors = [(MODEL_FILE, model), (OPTIMIZER_FILE, optimizer)];
    let zstd = if step == COMPRESSED { 1 } else { 0 };
    write(folder, state(step), &texts, tensors, &|| Ok(()), Store { keep, zstd }).expect("write")
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    let last = bytes.last_mut().expect("not empty");
    *last ^= 1;
    fs::write(path, bytes).expect("write");
}

fn visible(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("read")
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_written_is_read_back() {
    let folder = tempfile::tempdir().expect("temporary folder");
    assert_eq!(newest(folder.path()).expect("none yet").0, None);
    let written = save(folder.path(), 3, 0);
    let (found, damaged) = newest(folder.path()).expect("good");
    assert_eq!((found, damaged.len()), (Some(written.clone()), 0));
    let mut file = TensorFile::open(&written.folder.join(MODEL_FILE)).expect("open");
    assert_eq!(file.read("w", Dtype::F32, &[2, 3]).expect("read"), vec![3; 24]);
    let other = file.read("w", Dtype::F32, &[3, 2]).expect_err("another shape").message.en;
    assert!(other.contains("[2, 3]") && other.contains("[3, 2]"), "{other}");
    assert!(file.read("x", Dtype::F32, &[1]).expect_err("no such").message.en.contains("no tensor x"));
    let mode = |f: &str| fs::metadata(written.folder.join(f)).expect("metadata").permissions();
    assert_eq!(mode(MODEL_FILE), mode(CONFIG_FILE), "readable by whom the user's umask allows");
}

#[test]
fn compressed_states_are_read_back_and_their_damage_is_found() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let bytes: Vec<u8> =
        (0..3_000_004u32).map(|i| (i.wrapping_mul(2_654_435_761) >> (i % 4 * 6 + 8)) as u8).collect();
    let big = || Plain { shape: vec![750_001], data: bytes.clone() };
    let empty = || Plain { shape: vec![0], data: vec![] };
    let tensors = [
        (MODEL_FILE, vec![("w".to_owned(), tensor(1))]),
        (
            OPTIMIZER_FILE,
            vec![("a".to_owned(), tensor(2)), ("e".to_owned(), empty()), ("w.m".to_owned(), big())],
        ),
    ];
    let texts = [CONFIG_FILE, PLAN_FILE, DATA_FILE].map(|file| (file, "{}\n".to_owned()));
    let storage = Store { keep: 0, zstd: 3 };
    let written = write(folder.path(), state(4), &texts, tensors, &|| Ok(()), storage).expect("write");
    assert_eq!(newest(folder.path()).expect("good").0, Some(written.clone()));
    let plain = written.folder.join(OPTIMIZER_FILE);
    assert!(!plain.exists() && written.folder.join(MODEL_FILE).exists());
    let mut file = TensorFile::open(&plain).expect("open");
    assert!(file.bytes("w.m").expect("read") == bytes);
    assert_eq!(file.read("a", Dtype::F32, &[2, 3]).expect("read"), vec![2; 24]);
    assert_eq!(file.read("e", Dtype::F32, &[0]).expect("read"), vec![0; 0]);
    let whole = fs::read(zst(&plain)).expect("read");
    assert!(whole.len() < bytes.len());
    // Of a file that is not hashed first, nothing is trusted either.
    for cut in [0, 4, 8, 40, whole.len() / 2, whole.len() - 1] {
        fs::write(zst(&plain), &whole[..cut]).expect("write");
        assert_eq!(TensorFile::open(&plain).expect_err("cut").code, 2);
    }
    let middle = whole.len() / 2;
    let torn: Vec<u8> =
        whole.iter().enumerate().map(|(i, b)| if i / 99 == middle / 99 { !b } else { *b }).collect();
    fs::write(zst(&plain), torn).expect("write");
    let mut file = TensorFile::open(&plain).expect("its table is whole");
    // A frame that still decompresses is found by the hash alone.
    let _ = file.bytes("w.m").map_err(|failure| assert!(failure.message.en.contains("a frame of w.m")));
    assert!(open(&written.folder).expect_err("damaged").message.en.contains(".zst is damaged"));
    // Plain and compressed ones follow each other.
    save(folder.path(), COMPRESSED, 0);
    assert_eq!(newest(folder.path()).expect("good").0.expect("found").state.step, COMPRESSED);
    flip(&zst(&folder.path().join("step-5").join(OPTIMIZER_FILE)));
    save(folder.path(), 2, 0);
    assert_eq!(newest(folder.path()).expect("good").0.expect("found").state.step, 2);
}

#[test]
fn the_last_few_are_kept() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for step in [9, 10, 11, 100] {
        save(folder.path(), step, 2);
    }
    assert_eq!(visible(folder.path()), ["latest", "step-100", "step-11"]);
}

#[test]
fn damage_in_any_file_is_named_and_passed_over() {
    for file in REQUIRED.into_iter().chain([STATE_FILE]) {
        let folder = tempfile::tempdir().expect("temporary folder");
        save(folder.path(), 1, 0);
        let second = save(folder.path(), 2, 0);
        let path = second.folder.join(file);
        if file == STATE_FILE {
            let text = fs::read_to_string(&path).expect("read");
            fs::write(&path, text.replace("\"step\": 2", "\"step\": 7")).expect("write");
        } else {
            flip(&path);
        }
        let (found, damaged) = newest(folder.path()).expect("the first is good");
        assert_eq!(found.expect("found").state.step, 1, "{file}");
        assert!(damaged[0].en.contains(file), "{damaged:?}");
        let failure = open(&second.folder).expect_err("damaged");
        assert_eq!(failure.code, 2);
        // The run goes on from step 1 and writes step 2 again.
        save(folder.path(), 2, 0);
        assert_eq!(newest(folder.path()).expect("good").0.expect("found").state.step, 2);
    }
}

#[test]
fn all_damaged_is_an_error_and_not_a_fresh_start() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let only = save(folder.path(), 1, 0);
    fs::remove_file(only.folder.join(OPTIMIZER_FILE)).expect("remove");
    let failure = newest(folder.path()).expect_err("nothing to resume from");
    assert_eq!(failure.code, 2);
    assert!(failure.message.en.contains(OPTIMIZER_FILE), "{}", failure.message.en);
}

#[test]
fn a_failed_copy_leaves_the_older_checkpoint() {
    let folder = tempfile::tempdir().expect("temporary folder");
    save(folder.path(), 1, 0);
    let tensors = [(MODEL_FILE, vec![("w".to_owned(), tensor(2))]), (OPTIMIZER_FILE, vec![])];
    let texts = [CONFIG_FILE, PLAN_FILE, DATA_FILE].map(|file| (file, String::new()));
    write(folder.path(), state(2), &texts, tensors, &|| Err(Failure::bug("device lost")), Store::default())
        .expect_err("failed");
    assert_eq!(newest(folder.path()).expect("good").0.expect("found").state.step, 1);
}

/// Every state that a kill between two system calls of [`write`] can leave, made by hand.
#[test]
fn a_kill_between_any_two_steps_leaves_the_older_or_the_newer() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path();
    save(root, 1, 0);
    save(root, 2, 0);
    // Half-filled temporary folder.
    fs::create_dir(root.join(".tmp-step-3")).expect("create");
    fs::write(root.join(".tmp-step-3").join(MODEL_FILE), b"half").expect("write");
    assert_eq!(newest(root).expect("good").0.expect("found").state.step, 2);
    // Renamed, pointer not yet moved.
    fs::write(root.join(LATEST), "step-1\n").expect("write");
    assert_eq!(newest(root).expect("good").0.expect("found").state.step, 2);
    // Pointer half-written under its temporary name; an old folder half-removed under its dotted name.
    fs::write(root.join(".tmp-latest"), "st").expect("write");
    fs::rename(root.join("step-1"), root.join(".old-step-1")).expect("rename");
    assert_eq!(newest(root).expect("good").0.expect("found").state.step, 2);
    // Pointer to a folder that is gone, and to nonsense.
    for text in ["step-1\n", "../../elsewhere", ""] {
        fs::write(root.join(LATEST), text).expect("write");
        assert_eq!(newest(root).expect("good").0.expect("found").state.step, 2);
    }
    // The next write clears the leftovers.
    save(root, 3, 0);
    assert_eq!(visible(root), ["latest", "step-2", "step-3"]);
}

#[test]
fn headers_are_not_trusted() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("x.safetensors");
    let header = br#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let framed = |n: u64, header: &[u8], data: &[u8]| [&n.to_le_bytes(), header, data].concat();
    for bytes in [
        vec![1, 2, 3],
        framed(u64::MAX, b"", b""),
        framed(1 << 40, b"{}", b""),
        framed(2, b"[]", b""),
        framed(header.len() as u64, header, &[0; 7]),
        framed(header.len() as u64, header, &[0; 9]),
    ] {
        fs::write(&path, bytes).expect("write");
        assert_eq!(TensorFile::open(&path).expect_err("refused").code, 2);
    }
    fs::write(&path, framed(header.len() as u64, header, &[0; 8])).expect("write");
    TensorFile::open(&path).expect("whole");
}
