"""opc.lang"""
