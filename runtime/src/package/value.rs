//! Tensors of programs that run without Python.

use half::{bf16, f16};
use torsh_ir::exec::{BufferRef, Executor};
use torsh_ir::{DType, Error, Result, Shape, Type};

/// A tensor: dtype, sizes and contiguous row-major elements. Cheap to clone; never changes.
#[derive(Clone)]
pub struct Value {
    ty: Type,
    buffer: BufferRef,
}

/// Rust types of elements.
pub trait Element: Copy {
    /// The dtype.
    const DTYPE: DType;
    /// Appends the element in little-endian order.
    fn put(self, out: &mut Vec<u8>);
    /// Reads an element of exactly its size.
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($t:ty = $dtype:ident;)*) => { $(
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> $t {
                let mut own = [0; size_of::<$t>()];
                own.copy_from_slice(bytes);
                <$t>::from_le_bytes(own)
            }
        }
    )* };
}
elements! { u8 = U8; i8 = I8; i16 = I16; i32 = I32; i64 = I64; f16 = F16; bf16 = BF16; f32 = F32; f64 = F64; }

impl Element for bool {
    const DTYPE: DType = DType::Bool;
    fn put(self, out: &mut Vec<u8>) {
        out.push(u8::from(self));
    }
    fn get(bytes: &[u8]) -> bool {
        bytes[0] != 0
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Value({})", self.ty)
    }
}

impl Value {
    /// A copy of elements, row by row. Errors: `Shape` when the sizes want another number of them, `Limit` when there is
    /// no memory for it.
    pub fn from_slice<T: Element>(executor: &dyn Executor, shape: &[usize], elements: &[T]) -> Result<Value> {
        let ty = Type::new(T::DTYPE, Shape::new(shape)?);
        if ty.numel() != elements.len() {
            return Err(Error::shape(format!("{} elements for the shape {}", elements.len(), ty.shape)));
        }
        let mut bytes = Vec::with_capacity(ty.nbytes());
        elements.iter().for_each(|x| x.put(&mut bytes));
        Value::from_bytes(executor, ty, &bytes)
    }

    /// A copy of little-endian elements. Errors: `Value` for another number of bytes, or bools other than 0 and 1.
    pub fn from_bytes(executor: &dyn Executor, ty: Type, bytes: &[u8]) -> Result<Value> {
        if bytes.len() != ty.nbytes() {
            return Err(Error::value(format!("{ty} takes {} bytes, got {}", ty.nbytes(), bytes.len())));
        }
        if ty.dtype == DType::Bool && bytes.iter().any(|&b| b > 1) {
            return Err(Error::value("bools must be 0 or 1"));
        }
        torsh_passes::limits::check_type(&ty, &torsh_ir::limits::get())?;
        Ok(Value { buffer: executor.upload(&ty, bytes)?, ty })
    }

    pub(super) fn new(ty: Type, buffer: BufferRef) -> Value {
        Value { ty, buffer }
    }

    pub(super) fn buffer(&self) -> &BufferRef {
        &self.buffer
    }

    /// Dtype and shape.
    pub fn ty(&self) -> &Type {
        &self.ty
    }

    /// The sizes.
    pub fn shape(&self) -> &[usize] {
        self.ty.shape.dims()
    }

    /// The elements' bytes, little-endian, copied from wherever they are by the executor that has them.
    pub fn download(&self, executor: &dyn Executor) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.ty.nbytes()];
        executor.download(&*self.buffer, &mut bytes)?;
        Ok(bytes)
    }

    /// The elements' bytes, little-endian. Errors: `Device` for a tensor that the host cannot read: see
    /// [`Value::download`].
    pub fn bytes(&self) -> Result<&[u8]> {
        self.buffer.host_bytes().ok_or_else(|| Error::device("the host cannot read this tensor"))
    }

    /// The elements. Errors: `DType` when they are not of this type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.ty.dtype != T::DTYPE {
            return Err(Error::dtype(format!("the tensor is {}, not {}", self.ty.dtype, T::DTYPE)));
        }
        Ok(self.bytes()?.chunks_exact(self.ty.dtype.size()).map(T::get).collect())
    }
}
