//! Accuracy of the transcendental primitives over the range of f32, and of f64 samples.
