//! The program as a user sees it: files in, files out, exit status.

use npyz::WriterBuilder;
use std::path::{Path, PathBuf};
use std::process::Command;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/packages/0.1.0").join(name)
}

/// Exit status and everything written. The variables of whoever runs the tests are kept away from the program.
fn run(words: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torsh-run"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TORSH_")) {
        command.env_remove(name);
    }
    let done = command.args(words).output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    (done.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

fn save(path: &Path, shape: &[u64], values: &[f32]) {
    let file = std::fs::File::create(path).unwrap();
    let options = npyz::WriteOptions::<f32>::new().default_dtype().shape(shape).writer(file);
    let mut writer = options.begin_nd().unwrap();
    writer.extend(values.iter().copied()).unwrap();
    writer.finish().unwrap();
}

#[test]
fn a_package_runs_on_files() {
    let folder = std::env::temp_dir().join(format!("torsh-run-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (x, y) = (folder.join("x.npy"), folder.join("y.npy"));
    let model = golden("linear.torsh");
    let model = model.to_str().unwrap();
    save(&x, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let input = format!("input={}", x.display());
    let (status, text) = run(&[model, "--input", &input, "--output", y.to_str().unwrap()]);
    assert_eq!((status, text.as_str()), (0, ""));
    let back = npyz::NpyFile::new(std::fs::File::open(&y).unwrap()).unwrap();
    assert_eq!(back.shape(), [2, 2]);
    assert_eq!(back.into_vec::<f32>().unwrap(), [14.0, -1.0, 32.0, 2.0]);

    let (status, text) = run(&[model, "--input", &input]);
    assert!(status == 0 && text.contains("output: f32[2, 2] [14, -1, 32, 2]"), "{text}");
    // The same array with its bytes the other way round.
    let mut turned = std::fs::read(&x).unwrap();
    let at = turned.windows(3).position(|w| w == b"<f4").unwrap();
    turned[at] = b'>';
    let data = turned.len() - 24;
    turned[data..].chunks_exact_mut(4).for_each(<[u8]>::reverse);
    let big = folder.join("big.npy");
    std::fs::write(&big, turned).unwrap();
    let (status, text) = run(&[model, "--input", &format!("input={}", big.display())]);
    assert!(status == 0 && text.contains("output: f32[2, 2] [14, -1, 32, 2]"), "{text}");
    let (status, text) = run(&[model, "--info"]);
    assert!(status == 0 && text.contains("input input: float32 [2, 3]"), "{text}");
    let (status, text) = run(&[model, "--input", &input, "--bench"]);
    assert!(status == 0 && text.contains("median"), "{text}");

    let refused = |words: &[&str], wanted: i32, reason: &str| {
        let (status, text) = run(words);
        assert!(status == wanted && text.contains(reason), "{words:?}: {status} {text}");
    };
    refused(&[model], 1, "the input \"input\" is missing");
    refused(&[model, "--input", &format!("z={}", x.display())], 1, "no input \"z\"");
    refused(&[model, "--input", &input, "--output", "z=z.npy"], 1, "--output must name one of the outputs");
    refused(&[model, "--trusted-key", &"0".repeat(64), "--input", &input], 1, "not signed");
    refused(&[x.to_str().unwrap()], 1, "no end record");
    refused(&["nothing.torsh"], 1, "cannot open");
    refused(&[model, "--input", &input, "--input", &input], 2, "\"input\" was given before");
    refused(&[model, "--input", &input, "--output", "a", "--output", "b"], 2, "it was given before, as a");
    refused(&[], 2, "a package is needed");
    refused(&[model, "--trusted-key", "zz"], 2, "64 hexadecimal digits");
    refused(&[model, "--unknown"], 2, "usage");
    save(&x, &[3, 2], &[0.0; 6]);
    refused(&[model, "--input", &input], 1, "must have shape [2, 3], got [3, 2]");
    // A header that claims more than there is.
    let mut bytes = std::fs::read(&x).unwrap();
    let at = bytes.windows(5).position(|w| w == b"(3, 2").unwrap();
    bytes[at + 1] = b'9';
    std::fs::write(&x, &bytes).unwrap();
    refused(&[model, "--input", &input], 1, "x.npy");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn help_names_every_option() {
    let (status, text) = run(&["--version"]);
    assert_eq!((status, text), (0, format!("torsh-run {}\n", env!("CARGO_PKG_VERSION"))));
    let (status, text) = run(&["--help"]);
    assert_eq!(status, 0);
    for word in [
        "--input",
        "--output",
        "--save-state",
        "--repeat",
        "--bench",
        "--info",
        "--trusted-key",
        "--threads",
        "--version",
    ] {
        assert!(text.contains(word), "{word}");
    }
}
