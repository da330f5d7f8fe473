//! Kernels for CUDA devices in packages: what the manifest says of them, the form of their entries, and when they are used.
//!
//! An entry holds images of one form: machine code of an architecture, or the PTX that the simulator runs. The manifest
//! lists the kernels in them by what they were made from ([`crate::cuda::images`]). Whoever runs one must believe whoever
//! wrote it, so they are looked at as machine code of the CPU is ([`super::code`]): where the caller gives keys, one of which
//! signed the file, or the file's hash; else an entry is hashed like every other one and left alone.

use super::code::CodeUse;
use super::format::{
    MANIFEST, MAX_CODE_BYTES, MAX_CUDA, MAX_CUDA_IMAGES, MAX_CUDA_KERNELS, MAX_SYMBOL, bad, cuda_entry, refused,
};
use super::sign::hex;
use crate::cuda::export::{self, Made};
use crate::cuda::images::{self, Form, Images, Key};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use torsh_ir::Result;
use torsh_ir::program::Program;

const MAGIC: &[u8; 8] = b"torshCU\n";
const FORMAT: u32 = 1;
/// Images begin at multiples of this.
const ALIGN: usize = 64;
/// What machine code for CUDA devices begins with: an ELF file, 64-bit and little-endian.
const ELF: &[u8] = b"\x7fELF\x02\x01";
/// The number of CUDA's machine in an ELF file, and where it stands.
const EM_CUDA: [u8; 2] = 190u16.to_le_bytes();
const MACHINE: Range<usize> = 18..20;
/// The header of an ELF file.
const ELF_HEADER: usize = 64;

/// An entry of kernels for CUDA devices.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cuda {
    /// Its name: `cuda-sm_90.bin`.
    pub entry: String,
    /// `sm_90`, or `compute_90` for PTX.
    pub target: String,
    /// What wrote the sources.
    pub generator: String,
    /// Version of NVRTC, which compiled them.
    pub nvrtc: String,
    /// The kernels, in ascending order of their keys.
    pub kernels: Vec<CudaKernel>,
}

/// A kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaKernel {
    /// SHA-256 of what it was made from, in lower-case hexadecimal digits.
    pub key: String,
    /// Number of its image in the entry.
    pub image: u32,
    /// Its name there.
    pub symbol: String,
}

/// What kernels a package is written with.
#[derive(Clone, Debug, Default)]
pub struct CudaTargets {
    /// Architectures (`sm_90`; `compute_90` for PTX, which the simulator runs), and devices of this machine (`cuda:0`).
    pub names: Vec<String>,
    /// Folders that may hold NVIDIA's wheels, and in one of them NVRTC.
    pub folders: Vec<PathBuf>,
}

/// Kernels of programs, for each of these targets, and what the manifest says of them.
///
/// Errors: `Export`, as of [`export::compile`], and for too much code.
pub(super) fn entries(targets: &CudaTargets, programs: &[Program]) -> Result<Vec<(Cuda, Vec<u8>)>> {
    let made = export::compile(&targets.names, &targets.folders, programs)?;
    if made.len() > MAX_CUDA {
        return Err(refused(format!("kernels for {} CUDA architectures; the most is {MAX_CUDA}", made.len())));
    }
    made.into_iter().map(entry).collect()
}

fn entry(made: Made) -> Result<(Cuda, Vec<u8>)> {
    let target = made.form.name();
    let kernels = made.kernels.iter().map(|(key, (image, symbol))| CudaKernel {
        key: hex(key),
        image: *image as u32,
        symbol: symbol.clone(),
    });
    let cuda = Cuda {
        entry: cuda_entry(&target),
        generator: images::generator(),
        nvrtc: format!("{}.{}", made.nvrtc.0, made.nvrtc.1),
        kernels: kernels.collect(),
        target,
    };
    let bytes = encode(&made.images);
    if bytes.len() as u64 > MAX_CODE_BYTES {
        let (entry, bytes) = (&cuda.entry, bytes.len());
        return Err(refused(format!("{entry} would have {bytes} bytes; the most is {MAX_CODE_BYTES}")));
    }
    Ok((cuda, bytes))
}

/// The bytes of an entry.
fn encode(images: &[Vec<u8>]) -> Vec<u8> {
    let mut out = [MAGIC, &FORMAT.to_le_bytes()[..], &(images.len() as u32).to_le_bytes()].concat();
    images.iter().for_each(|image| out.extend((image.len() as u64).to_le_bytes()));
    for image in images {
        out.resize(out.len().next_multiple_of(ALIGN), 0);
        out.extend_from_slice(image);
    }
    out
}

type Why = &'static str;

/// Where the images of an entry are. It has one form, and each image looks like one.
fn decode(bytes: &[u8], ptx: bool) -> std::result::Result<Vec<Range<usize>>, Why> {
    let head = [MAGIC, &FORMAT.to_le_bytes()[..]].concat();
    let rest = bytes.strip_prefix(head.as_slice()).ok_or("it is of another form")?;
    let (count, rest) = rest.split_first_chunk().ok_or("it ends too early")?;
    let count = u32::from_le_bytes(*count) as usize;
    if count == 0 || count > MAX_CUDA_IMAGES || rest.len() / 8 < count {
        return Err("no images, too many, or more than it has room for");
    }
    let mut end = head.len() + 4 + 8 * count;
    let mut images = Vec::with_capacity(count);
    for len in rest.as_chunks::<8>().0.iter().take(count) {
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| "an image that does not end")?;
        let start = end.next_multiple_of(ALIGN);
        let stop = start.checked_add(len).filter(|&stop| stop <= bytes.len()).ok_or("it ends too early")?;
        if bytes[end..start].iter().any(|&b| b != 0) {
            return Err("padding that is not zero");
        }
        let image = &bytes[start..stop];
        let is_code = image.len() >= ELF_HEADER && image.starts_with(ELF) && image[MACHINE] == EM_CUDA;
        // A zero would end the text early.
        let is_text = !image.is_empty() && image.iter().all(|&b| b.is_ascii() && b != 0);
        if !(if ptx { is_text } else { is_code }) {
            return Err("an image that is neither machine code of CUDA nor, where that is expected, text");
        }
        images.push(start..stop);
        end = stop;
    }
    if end != bytes.len() { Err("bytes behind the last image") } else { Ok(images) }
}

/// Checks what the manifest says of such entries.
pub(super) fn check(list: &[Cuda]) -> Result<()> {
    let fail = |why: &str| Err(bad(MANIFEST, why));
    if list.len() > MAX_CUDA {
        return fail("kernels for too many CUDA architectures");
    }
    let mut last = None;
    for cuda in list {
        let form = Form::parse(&cuda.target);
        if form.is_none() || form <= last {
            return fail("kernels for a CUDA architecture that is unknown, out of order or stands twice");
        }
        last = form;
        if cuda.entry != cuda_entry(&cuda.target) {
            return fail("kernels for CUDA with an entry of another name");
        }
        let version = |text: &str| {
            let number = |n: &str| (1..=4).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
            text.split_once('.').is_some_and(|(major, minor)| number(major) && number(minor))
        };
        let printable = |text: &str| text.len() <= 128 && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        if !version(&cuda.nvrtc) || cuda.generator.is_empty() || !printable(&cuda.generator) {
            return fail("kernels for CUDA whose generator or NVRTC is no version");
        }
        if cuda.kernels.is_empty() || cuda.kernels.len() > MAX_CUDA_KERNELS {
            return fail("an entry of no kernels for CUDA, or of too many");
        }
        if cuda.kernels.windows(2).any(|pair| pair[0].key >= pair[1].key) {
            return fail("kernels for CUDA that are not in order");
        }
        for kernel in &cuda.kernels {
            let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let begins = kernel.symbol.bytes().next().is_some_and(|b| !b.is_ascii_digit());
            let named = begins && kernel.symbol.len() <= MAX_SYMBOL && kernel.symbol.bytes().all(word);
            if parse(&kernel.key).is_none() || !named || kernel.image as usize >= MAX_CUDA_IMAGES {
                return fail("a kernel for CUDA whose key, image or symbol is none");
            }
        }
    }
    Ok(())
}

/// The key that 64 hexadecimal digits are.
fn parse(digits: &str) -> Option<Key> {
    let key: Key = super::sign::unhex(digits)?;
    (hex(&key) == digits).then_some(key)
}

/// Reads an entry, whose hash has been checked, if it may be used. Errors: `Package` for one that is malformed though it
/// is believed.
pub(super) fn read(cuda: &Cuda, bytes: Vec<u8>, believed: bool) -> Result<(CodeUse, Option<Arc<Images>>)> {
    let used = |kernels: usize, unused: Option<&str>| CodeUse {
        entry: cuda.entry.clone(),
        level: cuda.target.clone(),
        kernels,
        unused: unused.map(str::to_string),
    };
    if !believed {
        return Ok((used(0, Some(super::code::NOBODY)), None));
    }
    if cuda.generator != images::generator() {
        return Ok((used(0, Some("another version of torsh wrote it")), None));
    }
    let malformed = |why: Why| bad(&cuda.entry, why);
    let form = Form::parse(&cuda.target).ok_or_else(|| malformed("of an unknown architecture"))?;
    let images = decode(&bytes, form.ptx).map_err(malformed)?;
    let mut used_images = vec![false; images.len()];
    let mut kernels = Vec::with_capacity(cuda.kernels.len());
    for kernel in &cuda.kernels {
        let image = kernel.image as usize;
        let Some(seen) = used_images.get_mut(image) else {
            return Err(malformed("a kernel of the manifest is in an image that it does not have"));
        };
        *seen = true;
        let key = parse(&kernel.key).ok_or_else(|| malformed("a kernel without a key"))?;
        kernels.push((key, image, kernel.symbol.clone()));
    }
    if used_images.contains(&false) {
        return Err(malformed("an image without a kernel of the manifest"));
    }
    Ok((used(kernels.len(), None), Some(Arc::new(Images { form, bytes, images, kernels }))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(len: usize) -> Vec<u8> {
        let mut image = ELF.to_vec();
        image.resize(ELF_HEADER + len, 7);
        image[MACHINE].copy_from_slice(&EM_CUDA);
        image
    }

    #[test]
    fn entries_have_one_form() {
        let images = [elf(0), elf(100), elf(64)];
        let bytes = encode(&images);
        let found = decode(&bytes, false).unwrap();
        assert!(found.iter().all(|range| range.start % ALIGN == 0));
        assert_eq!(found.iter().map(|range| bytes[range.clone()].to_vec()).collect::<Vec<_>>(), images);
        assert_eq!(decode(&encode(&[b".version 8.0".to_vec()]), true), Ok(std::iter::once(64..76).collect()));
        // Each length, and each byte that is no part of an image.
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], false).is_err(), "{len} bytes");
        }
        assert!(decode(&[&bytes[..], &[0]].concat(), false).is_err());
        for at in (0..bytes.len()).filter(|at| !found.iter().any(|range| range.contains(at))) {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                match decode(&bad, false) {
                    Err(_) => {}
                    // An image may be longer by zeros that were padding: those are other contents, in their one form.
                    Ok(other) => assert!((16..40).contains(&at) && other != found, "bit {bit} of byte {at}"),
                }
            }
        }
        // Lengths whose sum wraps round, and counts without room.
        for (at, n) in [(16, 8), (24, 8), (12, 4)] {
            let mut bad = bytes.clone();
            bad[at..at + n].fill(0xff);
            assert!(decode(&bad, false).is_err());
        }
        assert!(decode(&encode(&[]), false).is_err());
        let mut arm = elf(0);
        arm[18] = 183;
        for image in [vec![], b"text".to_vec(), elf(0)[..63].to_vec(), arm] {
            assert!(decode(&encode(&[image]), false).is_err());
        }
        for image in [&b""[..], b"a\0b", &[b'a', 0xff]] {
            assert!(decode(&encode(&[image.to_vec()]), true).is_err());
        }
    }

    fn listed() -> Cuda {
        let kernel = |key: &str, image| CudaKernel { key: key.repeat(64), image, symbol: "k0_exp".into() };
        Cuda {
            entry: "cuda-sm_90.bin".into(),
            target: "sm_90".into(),
            generator: images::generator(),
            nvrtc: "12.9".into(),
            kernels: vec![kernel("1", 0), kernel("a", 1)],
        }
    }

    #[test]
    fn believed_entries_agree_with_the_manifest() {
        let two = encode(&[elf(1), elf(2)]);
        assert!(check(&[listed()]).is_ok());
        let (about, images) = read(&listed(), two.clone(), true).unwrap();
        assert_eq!((about.level.as_str(), about.kernels, about.unused), ("sm_90", 2, None));
        let images = images.unwrap();
        assert_eq!(images.image(1), Some(&elf(2)[..]));
        assert_eq!((images.image(2), images.kernels[1].0), (None, [0xaa; 32]));
        // Nobody vouches for it, or another torsh wrote it: nothing of it is looked at.
        let (about, images) = read(&listed(), b"x".to_vec(), false).unwrap();
        assert!(images.is_none() && about.unused.unwrap().contains("nobody vouches"));
        let other = Cuda { generator: "torsh 9.9.9 generator 2".into(), ..listed() };
        let (about, images) = read(&other, b"x".to_vec(), true).unwrap();
        assert!(images.is_none() && about.unused.unwrap().contains("another version"));
        for (images, why) in [(1, "does not have"), (3, "without a kernel")] {
            let bytes = encode(&vec![elf(0); images]);
            assert!(read(&listed(), bytes, true).unwrap_err().message().contains(why), "{images}");
        }
        let text = Cuda { target: "compute_90".into(), ..listed() };
        assert!(read(&text, two, true).is_err());
    }

    #[test]
    fn lists_that_lie_are_refused() {
        let edit = |change: &dyn Fn(&mut Cuda)| {
            let mut cuda = listed();
            change(&mut cuda);
            check(&[cuda])
        };
        let edits: [&dyn Fn(&mut Cuda); 14] = [
            &|c| c.target = "sm_75".into(),
            &|c| c.entry = "graph.txt".into(),
            &|c| c.entry = "cuda-sm_80.bin".into(),
            &|c| c.nvrtc = "12".into(),
            &|c| c.nvrtc = "12.9.1".into(),
            &|c| c.generator = "\u{1b}[2J".into(),
            &|c| c.generator = String::new(),
            &|c| c.kernels.clear(),
            &|c| c.kernels.swap(0, 1),
            &|c| c.kernels[1] = c.kernels[0].clone(),
            &|c| c.kernels[1].key = "A".repeat(64),
            &|c| c.kernels[1].image = 1 << 20,
            &|c| c.kernels[0].symbol = "0k".into(),
            &|c| c.kernels[0].symbol = "k\0".into(),
        ];
        for (i, change) in edits.into_iter().enumerate() {
            assert!(edit(change).is_err(), "edit {i}");
        }
        assert!(check(&[listed(), listed()]).is_err());
        let of = |arch: u32| Cuda { target: format!("sm_{arch}"), entry: format!("cuda-sm_{arch}.bin"), ..listed() };
        assert!(check(&(80..86).map(of).collect::<Vec<_>>()).is_ok());
        assert!(check(&(80..87).map(of).collect::<Vec<_>>()).is_err());
    }
}
