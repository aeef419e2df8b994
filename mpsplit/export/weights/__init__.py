"""What goes into a rank's weight files: read once, rounded, written by content.

weight_source        what a conversion reads: a checkpoint, or a package
repacked             a package as that source
weight_contents      each file as arrays, before there are any bytes
encode               rows as they are stored, by every method of rounding
gptq, awq            the two methods that calibration brings
calibration_text     a text as tokens
input_statistics     what the linears are fed by it
calibrated_encoders  what calibration makes of each weight, layer by layer
gemm_blocks          a matrix as ncnn's own block-quantised Gemm
weight_stream        a file, written piece by piece
weight_store         a rank's files, by content
conversion_weights   all that one conversion reads, in one value
block_cuts           whether another plan cuts blocks apart
unchanged_files      files that another plan leaves as they are
"""
