"""opc.npu"""
