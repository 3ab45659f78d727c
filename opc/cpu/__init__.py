"""opc.cpu"""
