use super::params::Kernel;
use crate::element::DType;

/// One kernel in its instances for the three element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Family {
    f32: Kernel,
    f16: Kernel,
    bf16: Kernel,
}

impl Family {
    pub(super) const fn of(self, dtype: DType) -> Kernel {
        match dtype {
            DType::F32 => self.f32,
            DType::F16 => self.f16,
            DType::Bf16 => self.bf16,
        }
    }
}

macro_rules! families {
    ($($name:ident = $f32:ident $f16:ident $bf16:ident;)*) => {
        $(pub(super) const $name: Family = Family { f32: Kernel::$f32, f16: Kernel::$f16, bf16: Kernel::$bf16 };)*
        #[cfg(test)]
        const ALL: &[Family] = &[$($name),*];
    };
}

families! {
    ROWS_GROUP_16 = rows_group_16_f32 rows_group_16_f16 rows_group_16_bf16;
    ROWS_GROUP_32 = rows_group_32_f32 rows_group_32_f16 rows_group_32_bf16;
    ROWS_SHARED = rows_shared_f32 rows_shared_f16 rows_shared_bf16;
    ROWS_ANY_SHARED = rows_any_shared_f32 rows_any_shared_f16 rows_any_shared_bf16;
    ROWS_LONG = rows_long_f32 rows_long_f16 rows_long_bf16;
    FUSED_ROWS_GROUP_16 = fused_rows_group_16_f32 fused_rows_group_16_f16 fused_rows_group_16_bf16;
    FUSED_ROWS_SHARED = fused_rows_shared_f32 fused_rows_shared_f16 fused_rows_shared_bf16;
    FUSED_ROWS_ANY_SHARED = fused_rows_any_shared_f32 fused_rows_any_shared_f16 fused_rows_any_shared_bf16;
    FUSED_ROWS_LONG = fused_rows_long_f32 fused_rows_long_f16 fused_rows_long_bf16;
    HEAD_ROWS_GROUP_16 = head_rows_group_16_f32 head_rows_group_16_f16 head_rows_group_16_bf16;
    HEAD_ROWS_ANY = head_rows_any_f32 head_rows_any_f16 head_rows_any_bf16;
    POINTWISE_PLANES = pointwise_planes_f32 pointwise_planes_f16 pointwise_planes_bf16;
    POINTWISE_CHANNELS_LAST = pointwise_channels_last_f32 pointwise_channels_last_f16 pointwise_channels_last_bf16;
    CHANNELS_LAST_MOMENTS = channels_last_moments_f32 channels_last_moments_f16 channels_last_moments_bf16;
    CHANNELS_LAST_APPLY = channels_last_apply_f32 channels_last_apply_f16 channels_last_apply_bf16;
    CHANNELS_LAST_ANY_MOMENTS =
        channels_last_any_moments_f32 channels_last_any_moments_f16 channels_last_any_moments_bf16;
    CHANNELS_LAST_ANY_APPLY = channels_last_any_apply_f32 channels_last_any_apply_f16 channels_last_any_apply_bf16;
    CHANNELS_LAST_RESIDENT = channels_last_resident_f32 channels_last_resident_f16 channels_last_resident_bf16;
    CHANNELS_LAST_ANY_RESIDENT =
        channels_last_any_resident_f32 channels_last_any_resident_f16 channels_last_any_resident_bf16;
    BATCH_STATISTICS_PLANES = batch_statistics_planes_f32 batch_statistics_planes_f16 batch_statistics_planes_bf16;
    BATCH_STATISTICS_PLANES_RESIDENT =
        batch_statistics_planes_resident_f32 batch_statistics_planes_resident_f16 batch_statistics_planes_resident_bf16;
    POINTWISE_TABLE = pointwise_table_f32 pointwise_table_f16 pointwise_table_bf16;
}

#[cfg(test)]
mod tests {
    use super::{ALL, Kernel};
    use crate::element::DType;
    use crate::plan::params::{KERNEL_NAMES, KERNELS};

    fn name(kernel: Kernel) -> &'static str {
        KERNEL_NAMES[kernel as usize].to_str().expect("ASCII")
    }

    #[test]
    fn every_instance_is_of_its_type_and_every_kernel_is_planned() {
        let mut planned = vec![Kernel::convolution_direct_f32];
        for family in ALL {
            let stem = name(family.f32).strip_suffix("_f32").expect("the f32 instance");
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                assert_eq!(name(family.of(dtype)), format!("{stem}_{dtype}"));
                planned.push(family.of(dtype));
            }
        }
        for kernel in KERNELS {
            assert!(planned.contains(&kernel), "{} is never planned", name(kernel));
        }
    }
}
