//! NumPy's `.npy` files as values.

use npyz::{DType as Npy, NpyFile, Order, WriterBuilder};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use torsh_ir::exec::Executor;
use torsh_ir::{DType, Error, Result, Shape, Type};
use torsh_runtime::package::Value;

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::value(format!("{}: {e}", path.display()))
}

/// The dtype that a type string such as `<f4` names; the reader converts either byte order.
fn dtype(word: &str) -> Option<DType> {
    Some(match word.trim_start_matches(['<', '>', '|', '=']) {
        "b1" => DType::Bool,
        "u1" => DType::U8,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        _ => return None,
    })
}

/// Reads a file of either byte order. Errors: `Value` for what is no such file, or a dtype that torsh lacks.
pub fn read(path: &Path, executor: &dyn Executor) -> Result<Value> {
    let bad = |why: String| Error::value(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(failed(path))?;
    let size = file.metadata().map_err(failed(path))?.len();
    let npy = NpyFile::new(BufReader::new(file)).map_err(failed(path))?;
    let word = match npy.dtype() {
        Npy::Plain(word) => word.to_string(),
        other => return Err(bad(format!("elements of {} are not supported", other.descr()))),
    };
    let dtype = dtype(&word).ok_or_else(|| bad(format!("elements of {word} are not supported")))?;
    let dims: Option<Vec<usize>> = npy.shape().iter().map(|&d| usize::try_from(d).ok()).collect();
    let shape = Shape::new(&dims.ok_or_else(|| bad("a size that cannot be addressed".into()))?)?;
    if npy.order() == Order::Fortran && shape.rank() > 1 {
        return Err(bad("the array is in column order; save np.ascontiguousarray(x)".into()));
    }
    let ty = Type::new(dtype, shape);
    // Before memory is taken for what the header claims.
    if ty.nbytes() as u64 > size {
        return Err(bad(format!("the header says {ty}, which is more than the file holds")));
    }
    let dims = ty.shape.dims();
    macro_rules! elements {
        ($t:ty) => {
            Value::from_slice(executor, dims, &npy.into_vec::<$t>().map_err(failed(path))?)
        };
    }
    match dtype {
        DType::Bool => elements!(bool),
        DType::U8 => elements!(u8),
        DType::I8 => elements!(i8),
        DType::I16 => elements!(i16),
        DType::I32 => elements!(i32),
        DType::I64 => elements!(i64),
        DType::F16 => elements!(half::f16),
        DType::F32 => elements!(f32),
        DType::F64 => elements!(f64),
        DType::BF16 => Err(bad("NumPy has no bfloat16".into())),
    }
}

/// Writes a file; bfloat16 becomes float32, which holds it exactly.
pub fn write(path: &Path, value: &Value) -> Result<()> {
    let out = BufWriter::new(File::create(path).map_err(failed(path))?);
    let dims: Vec<u64> = value.shape().iter().map(|&d| d as u64).collect();
    macro_rules! elements {
        ($t:ty, $elements:expr) => {{
            let options = npyz::WriteOptions::<$t>::new().default_dtype().shape(&dims).writer(out);
            let mut writer = options.begin_nd().map_err(failed(path))?;
            writer.extend($elements).map_err(failed(path))?;
            writer.finish().map_err(failed(path))
        }};
    }
    match value.ty().dtype {
        DType::Bool => elements!(bool, value.to_vec::<bool>()?),
        DType::U8 => elements!(u8, value.to_vec::<u8>()?),
        DType::I8 => elements!(i8, value.to_vec::<i8>()?),
        DType::I16 => elements!(i16, value.to_vec::<i16>()?),
        DType::I32 => elements!(i32, value.to_vec::<i32>()?),
        DType::I64 => elements!(i64, value.to_vec::<i64>()?),
        DType::F16 => elements!(half::f16, value.to_vec::<half::f16>()?),
        DType::BF16 => elements!(f32, value.to_vec::<half::bf16>()?.into_iter().map(f32::from)),
        DType::F32 => elements!(f32, value.to_vec::<f32>()?),
        DType::F64 => elements!(f64, value.to_vec::<f64>()?),
    }
}

/// The first elements as text.
pub fn preview(value: &Value) -> Result<String> {
    const SHOWN: usize = 8;
    macro_rules! shown {
        ($t:ty) => {
            value.to_vec::<$t>()?.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>()
        };
    }
    let list = match value.ty().dtype {
        DType::Bool => shown!(bool),
        DType::U8 => shown!(u8),
        DType::I8 => shown!(i8),
        DType::I16 => shown!(i16),
        DType::I32 => shown!(i32),
        DType::I64 => shown!(i64),
        DType::F16 => shown!(half::f16),
        DType::BF16 => shown!(half::bf16),
        DType::F32 => shown!(f32),
        DType::F64 => shown!(f64),
    };
    let more = if value.ty().numel() > SHOWN { ", ..." } else { "" };
    Ok(format!("[{}{more}]", list.join(", ")))
}
