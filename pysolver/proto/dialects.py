"""What a fork's field means here when no code computes it: it steers that fork's implementation only, or it changes
the numbers and is refused. Fields that are computed stand in neither table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2

# Precision, memory, threads, devices, kernels: kept when the file is written again, and said in one line.
STEERS = {
    "NetParameter": """
        default_forward_type default_backward_type default_forward_math default_backward_math global_grad_scale
        global_grad_scale_adaptive default_conv_algos_override reduce_buckets default_cudnn_math_override
        eltwise_mem_sharing compile_net_state engine multinode mem_param richness auto_insert_gathers""",
    "LayerParameter": """
        forward_type backward_type forward_math backward_math debug cudnn_math_override engine multinode
        mn_activation_param mn_grad_compress_param quantization_param split_param display""",
    "TransformationParameter": """
        use_gpu_transform random_seed display visualize visualize_label debug_params forward_packing allow_upscale
        interpolation_algo_down interpolation_algo_up""",
    "BatchNormParameter": "engine use_weight_bias bias_term",
    "ConcatParameter": "engine per_fla_fuse",
    "ConvolutionParameter": """
        cudnn_convolution_algo_seeker conv_algos_override conv_algorithm conv_mode dump_parameter dump_activation
        parameter_sparsity_pattern_histogram""",
    "HDF5DataParameter": "debug",
    "DataParameter": "threads parser_threads cache precache show_data disk_reader_threads huge_video_dataset verbose",
    "DropoutParameter": "engine random_seed",
    "EltwiseParameter": "engine",
    "ImageDataParameter": "threads cache precache show_data",
    "InnerProductParameter": "engine gemm_mode spmdm_transpose_in spmdm_transpose_out dump_parameter dump_activation",
    "VideoDataParameter": "show_data",
    "DetectionDataParameter": "cache_images resize_param",
    "ImageGtDataParameter": "cache_images",
    "SolverParameter": """
        device_id_again engine group_id richness solver_data_type store_blobs_in_old_format
        test_offset measure_threshold winograd_adjust_threshold max_threshold_factor force_type force_iter
        force_direction force_decay_type""",
    "ParamSpec": "breadth_decay_mult kernel_shape_decay_mult block_group_lasso force_mult force_regularize",
}

# Refused unless it has its default.
REFUSED = {
    "TransformationParameter": """
        img_rand_resize_lower img_rand_resize_upper rand_resize_ratio_lower rand_resize_ratio_upper
        vertical_stretch_lower vertical_stretch_upper horizontal_stretch_lower horizontal_stretch_upper num_labels
        random_resize_param random_aspect_ratio_param flow bgr2rgb pad enable_classf_aug min_scaling_factor
        max_scaling_factor max_rotation_angle contrast_brightness_adjustment smooth_filtering min_contrast
        max_contrast max_brightness_shift max_smooth max_color_shift min_side_min min_side_max min_side
        apply_probability cvt_bgr2rgb fix_crop more_fix_crop multi_scale scale_ratios max_distort is_flow
        original_image stride upper_size upper_height upper_width scale_factors crop_width crop_height hsv
        gaussianblur resize_param_again center_crop erase_ratio scale_min scale_max aspect_min aspect_max
        scale_cvg max_cvg_len min_cvg_len opaque_coverage coverage flip_prob max_rotate_degree crop_size_x crop_size_y
        scale_prob bbox_norm_factor target_dist center_perterb_max sigma sigma_center clahe_tile_size clahe_clip_limit
        do_clahe num_parts num_total_augs aug_way gray np_in_lmdb transform_body_joint put_gaussian img_header
        random_crop_on_test vertical_mirror random_90_deg_rot""",
    "ResizeParameter": "center_object max_angle is_pyramid_test out_height_scale out_width_scale",
    "LossParameter": "label_smoothing",
    "AnnotatedDataParameter": """
        yolo_data_type yolo_data_jitter train_diffcult single_class seg_scales seg_resize_width seg_resize_height
        difficult_label_warmup""",
    "NoiseParameter": "convert_to_lab gaussian_std uniform_range bias",
    "BatchNormParameter": "filler relu update_global_stats disable_mean disable_variance",
    "ConvolutionParameter": """
        coeff fusion_type kernel_depth temporal_stride filter_group temporal_pad dilation_h dilation_w shape_offset""",
    "DataParameter": """
        side limit_samples preselection_file preselection_label range_start range_end rand_permute
        rand_permute_order rand_permute_seed slice_point encoding subtract permute_every_iter block_size""",
    "FillerParameter": "scale alpha diag_val",
    "ImageDataParameter": """
        short_side bicubic dataset_share_per_node min_height min_width new_length use_image sampling_rate use_label
        use_temporal_jitter mean_value num_truth_channels use_byte_input is_flow truth_scale clip_min clip_max
        ignore_label label_type new_dim face_transform max_shear_ratio max_aspect_ratio max_rotate_angle
        min_random_scale max_random_scale max_random_shift face_mirror face_point_num balance_class balance_by
        label_cut_start label_cut_end pair_size label_divide_factor""",
    "MultiBoxLossParameter": "ignore_difficult_gt use_polygon objectness_score",
    "PoolingParameter": """
        torch_pooling pad_3d kernel_size_3d stride_3d avg_include_pad axis kernel_depth temporal_stride blobs_lr
        blobs_a_min""",
    "ReLUParameter": "fuse",
    "ReshapeParameter": "pixelshuffler",
    "ROIPoolingParameter": "pooled_size",
    "ReductionParameter": "k",
    "DetectionEvaluateParameter": "use_polygon",
    "DetectionOutputParameter": "use_polygon objectness_score input_height input_width",
    "PriorBoxParameter": "denser_prior_boxes width height",
    "SoftmaxParameter": "normalize_type hard_ratio class_weight hard_mining_label cutting_point label_smooth_factor",
    "NormalizeParameter": "fix_gradient",
    "InnerDistanceParameter": "update_center_only axis transpose",
    "GeneralContrastiveParameter": """
        normalize_negative max_negative_only max_positive_only exp_negative_weight add_intra_mae""",
    "LabelSpecificRescaleParameter": "power_on_positive",
    "VideoDataParameter": "encoded",
    "WindowDataParameter": "config",
    "SolverParameter": """
        larc_turbo test_and_snapshot_last_epochs disabled_update stepearly clamp_weights_lower clamp_weights_upper
        clip_weights breadth_decay kernel_shape_decay block_group_decay prune_threshold force_decay warm_up_iters
        warm_up_factor warm_up_method warm_up_power multistep_lr""",
    "AccuracyParameter": "denominator",
    "ELUParameter": "symmetric_mode",
    "L1LossParameter": "l2_per_location l2_prescale_by_channels normalize_by_num_entries epsilon plateau",
    "DropoutParameter": "sqrt_scale",
    "MemoryDataParameter": "transpose",
    "ScaleParameter": "min_value max_value",
    "CenterLossParameter": "distance_type",
    "MarginInnerProductParameter": "axis",
    "FocalLossParameter": "type beta",
    "LayerParameter": "reshape_every_iter",
    "Pooling3DParameter": "global_pooling",
    "EltwiseParameter": "coeff_blob",
    "CropParameter": "offset_height offset_width",
    "BNParameter": "var_eps moving_average decay axis",
}

# Refused in TRAIN unless it has its default: it changes how parameters are learned, not what they compute.
REFUSED_TO_TRAIN = {"LayerParameter": "connectivity_mode", "ParamSpec": "regularization_type"}

# Read by layers of these types only.
OF_TYPES = {
    "Convolution3D": {"ConvolutionParameter": "kernel_depth temporal_stride filter_group temporal_pad"},
    "Deconvolution3D": {"ConvolutionParameter": "kernel_depth temporal_stride filter_group temporal_pad"},
    "Pooling3D": {"PoolingParameter": "kernel_depth temporal_stride"},
    "ImageSegData": {
        "TransformationParameter": "scale_factors crop_width crop_height",
        "ImageDataParameter": "label_type ignore_label",
    },
    "Data": {"TransformationParameter": "random_resize_param random_aspect_ratio_param crop_width crop_height"},
    "ImageData": {"TransformationParameter": "random_resize_param random_aspect_ratio_param crop_width crop_height"},
    "Normalize": {"SoftmaxParameter": "normalize_type"},
    "PriorBoxClustered": {"PriorBoxParameter": "width height"},
    "VideoData": {
        "TransformationParameter": "fix_crop more_fix_crop multi_scale scale_ratios max_distort is_flow",
        "ImageDataParameter": "new_length use_image sampling_rate use_temporal_jitter mean_value",
    },
    "AnnotatedData": {
        "TransformationParameter": "resize_param_again",
        "AnnotatedDataParameter": "yolo_data_type yolo_data_jitter train_diffcult",
    },
}

# Read by the layers, or by the solver.
COMPUTED = {
    "NetParameter": "bn_stats_batch_size",
    "TransformationParameter": "resize_param noise_param emit_constraint crop_h crop_w distort_param expand_param",
    "BatchNormParameter": "scale_filler bias_filler scale_bias stats_batch_size",
    "DataParameter": "shuffle shuffle_pool_size",
    "ConvolutionParameter": "relu negative_slope",
    "DropoutParameter": "scale_train sample_weights_test",
    "ELUParameter": "lambda",
    "AccuracyParameter": "min_is_better",
    "InnerProductParameter": "relu negative_slope normalize",
    "InterpParameter": "use_blob_size",
    "ParameterParameter": "blob_filler",
    "LossParameter": "pre_fixed_normalizer weight_by_label_freqs class_weighting",
    "PoolingParameter": "ceil_mode",
    "ROIPoolingParameter": "pad_ratio bi_type is_multi_interpolate",
    "SolverParameter": """
        plateau_winsize momentum_policy max_momentum momentum_power larc larc_policy larc_eta
        weight_decay_policy weight_decay_power max_weight_decay local_lr_auto local_gw_ratio rampup_interval
        rampup_lr min_lr stagelr stageiter warmup_iter warmup_start_lr eval_type ap_version
        show_per_class_result""",
}

_COMPUTED = {f"{message}.{name}" for message, names in COMPUTED.items() for name in names.split()}
_STEERS = {f"{message}.{name}" for message, names in STEERS.items() for name in names.split()}
_REFUSED = {f"{message}.{name}" for message, names in REFUSED.items() for name in names.split()}
_REFUSED_TO_TRAIN = {f"{message}.{name}" for message, names in REFUSED_TO_TRAIN.items() for name in names.split()}
_ENGINES = {"MKL2017", "MKLDNN"}
_APART = {"layer", "layers", "blobs"}  # looked at one by one, or data


def check(message: Message, owner: str, of_type: str = "", is_trained: bool = True) -> Counter[str]:
    """The fields of forks in a message that steer only an implementation, as `engine MKL2017`, with their number.

    owner: whose message it is, for the error: CaffeError for a field that changes the numbers and is not computed,
    at least not by layers `of_type`. is_trained: what changes only how a net learns is such a field too.
    """
    ignored: Counter[str] = Counter()
    computed = {f"{kind}.{name}" for kind, names in OF_TYPES.get(of_type, {}).items() for name in names.split()}
    refused = (_REFUSED | _REFUSED_TO_TRAIN if is_trained else _REFUSED) - computed
    for field, value, where in _fields(message, ""):
        key = f"{field.containing_type.name}.{field.name}"
        if key in refused and not is_default(field, value):
            raise CaffeError(
                f"{owner}: {where}{field.name} is a field of another Caffe that changes the numbers, and it is not "
                "computed here: take it out to train or test without it"
            )
        if key in _STEERS or (key in _REFUSED_TO_TRAIN and not is_trained):
            ignored[where + field.name] += 1
        elif field.name == "engine" and (name := field.enum_type.values_by_number[value].name) in _ENGINES:
            ignored[f"engine {name}"] += 1
    return ignored


def hand_on_fillers(net: caffe_pb2.NetParameter) -> None:
    """Put the filler of a BatchNorm, as Intel has it, where Caffe has it, in the net itself: into the Scale behind it,
    which Intel's Caffe merges with the BatchNorm (net.cpp, CompilationRuleRemoveScale)."""
    for index, layer in enumerate(net.layer):
        if layer.type != "BatchNorm" or not layer.batch_norm_param.HasField("filler"):
            continue
        reader = next((other for other in net.layer[index + 1 :] if set(layer.top) & set(other.bottom)), None)
        if reader is not None and _takes_filler(reader):
            reader.scale_param.filler.CopyFrom(layer.batch_norm_param.filler)
            layer.batch_norm_param.ClearField("filler")


def _takes_filler(layer: caffe_pb2.LayerParameter) -> bool:
    return layer.type == "Scale" and len(layer.bottom) == 1 and not layer.scale_param.HasField("filler")


def foreign_names(layer: Message) -> list[str]:
    """The fields of a layer that the schema does not know."""
    return [text.split(maxsplit=1)[0].rstrip(":") for text in layer.foreign_text]  # type: ignore[attr-defined]


def check_foreign(layer: caffe_pb2.LayerParameter) -> None:
    """CaffeError for a layer, of a type that is computed, with fields that nobody here knows."""
    if names := foreign_names(layer):
        raise CaffeError(
            f"layer '{layer.name}' ({layer.type}): nobody here knows {', '.join(names)}: take it out to run without it",
            layer.name,
        )


def check_net(net: caffe_pb2.NetParameter) -> Counter[str]:
    """check for a net that is about to be built: its own fields and those of its layers."""
    ignored = check(net, "the net")
    for layer in net.layer:
        is_trained = net.state.phase == caffe_pb2.TRAIN
        ignored += check(layer, f"layer '{layer.name}' ({layer.type})", layer.type, is_trained)
    return ignored


def steers(key: str) -> bool:
    """Whether `Message.field` steers only the implementation of another Caffe."""
    return key in _STEERS


def is_foreign(key: str) -> bool:
    """Whether `Message.field` is not of BVLC's Caffe, for all that is known of its own messages."""
    return key in _REFUSED or key in _REFUSED_TO_TRAIN or key in _COMPUTED


def sentence(ignored: Counter[str]) -> str:
    """`data_param.threads, engine MKL2017 (3 times)`"""
    parts = [f"{what} ({count} times)" if count > 1 else what for what, count in sorted(ignored.items())]
    return ", ".join(parts)


def _fields(message: Message, where: str) -> Iterator[tuple[FieldDescriptor, object, str]]:
    """Every field that is set, with the path to it: `convolution_param.`."""
    for field, value in message.ListFields():
        if field.name in _APART:
            continue
        yield field, value, where
        if field.message_type and f"{field.containing_type.name}.{field.name}" not in _STEERS:
            for inner in value if field.is_repeated else [value]:
                yield from _fields(inner, f"{where}{field.name}.")


def is_default(field: FieldDescriptor, value: object) -> bool:
    """Whether a field of a fork says what holds without it."""
    if field.name == "prune_threshold":  # SkimCaffe's default prunes
        return value == 0
    if field.full_name == "caffe.BatchNormParameter.filler":  # Intel's, of the Scale layer that it merges with it
        return value.type == "constant" and value.value == 1
    return not field.is_repeated and not field.message_type and value == field.default_value
